"""Texts for comparisons of tokenizers and models with reference implementations."""

PARAGRAPH = (
    "Water is made of hydrogen and oxygen. It covers most of the Earth's surface, and without it there would"
    " be no life as we know it. When it is heated to its boiling point it turns into steam, and when it is"
    " cooled below its freezing point it turns into ice, which is lighter than water and therefore floats."
    " Rivers carry it from the mountains to the sea, the sun lifts it into the clouds, and the rain brings"
    " it back to the mountains."
)

TEXTS = [
    PARAGRAPH,
    "Das größte Übel ist die Ungeduld; ça va? ¿Qué tal, señor?",
    "Москва, Αθήνα, 北京, 東京, القاهرة, नई दिल्ली, 한국어, ภาษาไทย, עברית",
    "🎉👩‍👩‍👧‍👦 emoji 🇩🇪, e\u0301 combining, ﬁ ligatures, ½ and x²",
    "  leading, \t tabs,\n\n\nlines   and trailing  ",
    "def f(x: int) -> str:\n\treturn {'a': [x]}['a'][::-x] != \"b\"  # I'd, we'll, they've\r\n",
    "In 1984, 12,345.67 of 1000000 were 3.14159e-10 or 0x1F",
    "\x00\x01\x1b[0m\x7f\u200b\u200d\ufeff\u2028control\ufffd",
    "",
    " ",
    "a",
    "\n",
]
"""Many languages and scripts, emoji, code, numbers, control characters, and very short texts."""

SPECIAL_TEXTS = [
    "<|im_start|>user\nhello<|im_end|>\n<|endoftext|>",
    "<s>[INST] hello [/INST]</s>",
    "<bos><start_of_turn>user\nhello<end_of_turn>\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>",
    "<|user|>\nhello<|end|>\n<|assistant|>",
]
"""Texts that contain special tokens."""
