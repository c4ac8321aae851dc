"""The recipe's ways to be asked, and every mistake in its config."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from recipes import alpaca_generate, full_finetune, lora_finetune
from recipes.alpaca_generate import AlpacaGenerateConfig
from tests.data.byte_tokenizer import ByteTokenizer
from tests.models.tiny import tiny_smollm2, tiny_tokenizer, tokenizer_config, write
from tests.recipes.parts import ROWS, TINY, full_config, lora_config
from tests.tune import Tune
from torchtune.config import Trust, instantiate, lazy, only_trusting
from torchtune.data import Message, Tokenizer, alpaca_prompt, chat_prompt
from torchtune.formats import load_hf_weights, load_peft_adapter, save_hf_folder
from torchtune.generation import Prompt, encode_prompt, generate
from torchtune.modules import merge_lora

BY_HEART: dict[str, Any] = {
    "epochs": 50,
    "batch_size": 6,
    "optimizer": lazy(AdamW, lr=2e-2, fused=True),
    "lr_scheduler": None,
}


def answering(text: str) -> list[dict[str, str]]:
    return [row | {"output": text} for row in ROWS]


def encoded_prompt(cfg: AlpacaGenerateConfig, tokenizer: Tokenizer) -> list[int]:
    """Encode a config's one prompt."""
    assert cfg.prompt is not None
    prompt = Prompt.from_text(cfg.prompt, cfg.input, cfg.prefill)
    return encode_prompt(tokenizer, prompt, cfg.template, cfg.system)


def generate_config(base: Path, **changes: Any) -> AlpacaGenerateConfig:
    fields: dict[str, Any] = {
        "prompt": "What is 2 plus 2?",
        "template": "chat",
        "device": "cpu",
        "model": TINY,
        "model_directory": str(base),
        "tokenizer": lazy(ByteTokenizer),
        "max_new_tokens": 40,
    }
    return AlpacaGenerateConfig(**fields | changes)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with weights that have one answer to everything."""
    folder = tmp_path_factory.mktemp("base")
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        full_finetune.main(full_config(folder, rows=answering("It is so."), **BY_HEART))
    return folder / "full" / "final"


def greedy(base: Path, adapter: Path, ids: list[int], most: int) -> str:
    """Answer without a cache, with the adapter merged into the weights."""
    tokenizer, model = ByteTokenizer(), instantiate(TINY)
    load_hf_weights(model, base)
    load_peft_adapter(model, adapter)
    merge_lora(model)
    answer: list[int] = []
    while len(answer) < most:
        token = int(model(torch.tensor([ids + answer]))[0, -1].argmax())
        if token in tokenizer.stop_ids:
            break
        answer.append(token)
    return tokenizer.decode(answer)


def test_answer_of_the_model_and_of_its_adapter_are_printed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {"model_directory": str(base), "tokenizer_directory": None, "epochs": 5}
    lora_finetune.main(lora_config(tmp_path, rows=answering("Who knows?"), **BY_HEART | here))
    adapter = tmp_path / "lora" / "final"
    capsys.readouterr()
    alpaca_generate.main(generate_config(base))
    assert capsys.readouterr().out == "It is so.\n"
    cfg = generate_config(base, adapter_directory=str(adapter))
    alpaca_generate.main(cfg)
    found = capsys.readouterr().out
    expected = greedy(base, adapter, encoded_prompt(cfg, ByteTokenizer()), cfg.max_new_tokens)
    assert found == expected + "\n"
    assert found != "It is so.\n"


@pytest.mark.parametrize("template", ["chat", "alpaca", "plain"])
def test_an_answer_begins_with_the_prefill(
    base: Path, capsys: pytest.CaptureFixture[str], template: Any
) -> None:
    alpaca_generate.main(generate_config(base, prefill="It is", template=template))
    out = capsys.readouterr().out
    assert out.startswith("It is")
    if template == "chat":  # what the model was trained on
        assert out == "It is so.\n"


def test_prompts_of_a_file_begin_their_answers(base: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It i"}]
    rows: list[dict[str, Any]] = [
        {"messages": turns},
        {"prompt": "Why?", "prefill": "It"},
        {"prompt": "Why?"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    call = {"prompt": None, "prompts_file": str(tmp_path / "rows.jsonl"), "prefill": "I"}
    for continues, beginnings in ((False, ["I", "It", "I"]), (True, ["It i", "It", "I"])):
        out = tmp_path / f"{continues}.jsonl"
        cfg = generate_config(base, **call, output_file=str(out), continue_final_message=continues)
        alpaca_generate.main(cfg)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        alone = [generate_config(base, prompt="Why?", prefill=beginning) for beginning in beginnings]
        assert [line["generated"] for line in lines] == [said_by(cfg) for cfg in alone]
        assert [{k: v for k, v in line.items() if k != "generated"} for line in lines] == rows


def said_by(cfg: AlpacaGenerateConfig) -> str:
    """Return the beginning of an answer, and what the model adds to it."""
    tokenizer, model = ByteTokenizer(), instantiate(TINY)
    load_hf_weights(model, cfg.model_directory)
    ids = encoded_prompt(cfg, tokenizer)
    added = generate(model, ids, max_new_tokens=cfg.max_new_tokens, stop_ids=tokenizer.stop_ids)
    return cfg.prefill + tokenizer.decode(list(added))


def test_the_best_model_of_a_run_answers_and_the_last_one_by_its_path(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", config__yaml="")
    shutil.copytree(base, run / "best")
    save_hf_folder(instantiate(TINY), run / "final")
    said = {}
    for folder in (run, run / "best", run / "final"):
        alpaca_generate.main(generate_config(base, model_directory=str(folder)))
        said[folder] = capsys.readouterr()
    assert said[run].out == said[run / "best"].out != said[run / "final"].out
    expected = (
        f"note: {run / 'best'} is used, the model with the lowest validation loss; {run / 'final'} is that of"
    )
    assert said[run].err.startswith(expected)
    assert said[run / "best"].err == said[run / "final"].err == ""


def test_draws_depend_on_the_seed(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for seed in (1, 1, 2):
        alpaca_generate.main(generate_config(base, temperature=5.0, seed=seed))
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[1] != said[2]


def test_prompt_is_written_out_as_in_training(base: Path) -> None:
    tokenizer = ByteTokenizer()
    plain = generate_config(base, template="alpaca", input="numbers")
    expected = tokenizer.encode(alpaca_prompt("What is 2 plus 2?", "numbers"), add_eos=False)
    assert encoded_prompt(plain, tokenizer) == expected
    chat = encoded_prompt(generate_config(base, input="numbers", system="Be brief."), tokenizer)
    assert tokenizer.decode(chat) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is 2 plus 2?\n\nnumbers<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_system_has_no_place_in_the_alpaca_template(base: Path) -> None:
    with pytest.raises(ValueError, match="write template=chat"):
        encoded_prompt(generate_config(base, template="alpaca", system="Be brief."), ByteTokenizer())


QUESTIONS = ["What is 2 plus 2?", "What is 4 plus 4?", "Why?"]


def said(base: Path, *turns: str) -> str:
    """Answer the last of a conversation's turns, a user's and the model's by turns."""
    tokenizer, model = ByteTokenizer(), instantiate(TINY)
    load_hf_weights(model, base)
    roles = ("user", "assistant")
    tokens = chat_prompt(
        tokenizer, [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]
    )
    return tokenizer.decode(list(generate(model, tokens, max_new_tokens=40, stop_ids=tokenizer.stop_ids)))


def test_several_prompts_are_written_with_their_answers(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = generate_config(base, prompt=None, prompts=QUESTIONS, batch_size=2)
    alpaca_generate.main(cfg)
    out = capsys.readouterr().out
    assert out == "".join(f"> {question}\n{said(base, question)}\n\n" for question in QUESTIONS)
    assert said(base, QUESTIONS[0]) == "It is so."


def test_a_file_of_prompts_becomes_json_lines(base: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "What is 2 plus 2?", "input": "", "id": 1},
        {"prompt": "Naïve?"},
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    out = tmp_path / "out.jsonl"
    files = {"prompts_file": str(tmp_path / "rows.json"), "output_file": str(out), "batch_size": 2}
    alpaca_generate.main(generate_config(base, prompt=None, **files))
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    asked = ["What is 2 plus 2?", "Naïve?", "Why?"]
    assert found == [{**row, "generated": said(base, text)} for row, text in zip(rows, asked, strict=True)]
    assert "Naïve" in out.read_text(encoding="utf-8")
    with pytest.raises(FileExistsError, match="is there already; name a new file, or remove it"):
        alpaca_generate.main(generate_config(base, prompt=None, **files))


@pytest.mark.usefixtures("fp32_is_float64")  # a rounding could turn a draw at the edge of a token's share
def test_answers_of_a_seed_do_not_depend_on_the_batch(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for batch_size in (1, 2, 3):
        drawn = {"temperature": 3.0, "top_p": 0.9, "seed": 1, "max_new_tokens": 8}
        alpaca_generate.main(
            generate_config(base, prompt=None, prompts=QUESTIONS, batch_size=batch_size, **drawn)
        )
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2] != ""


def test_an_answer_ends_before_a_stop_string(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alpaca_generate.main(generate_config(base, stop=["is so", "never"]))
    assert capsys.readouterr().out == "It \n"


def talked(
    base: Path, typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **how: Any
) -> tuple[str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    alpaca_generate.main(generate_config(base, prompt=None, **how))
    return capsys.readouterr()


def test_a_chat_through_a_pipe_is_written_down(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    render = ByteTokenizer.encode_template

    def noting(self: ByteTokenizer, text: str, *args: Any) -> list[int]:
        asked.append([turn.partition("<|im_end|>")[0] for turn in text.split("<|im_start|>")[1:]])
        return render(self, text, *args)

    monkeypatch.setattr(ByteTokenizer, "encode_template", noting)
    typed = "What is 2 plus 2?\n\n  Why?  \n/new\nWho?\n/exit\nNever asked\n"
    out, err = talked(base, typed, monkeypatch, capsys)
    second_answer = said(base, "What is 2 plus 2?", "It is so.", "Why?")
    assert out == (
        f"> What is 2 plus 2?\nIt is so.\n> \n> Why?\n{second_answer}\n"
        f"> /new\n> Who?\n{said(base, 'Who?')}\n> /exit\n"
    )
    assert err == ""
    first, second, third = ("user\nWhat is 2 plus 2?", "user\nWhy?", "user\nWho?")
    answer, opened = "assistant\nIt is so.", "assistant\n"
    assert [first, opened] in asked
    assert [first, answer, second, opened] in asked
    assert [third, opened] in asked
    assert not any("Never" in turn for turns in asked for turn in turns)


def test_a_chat_ends_with_its_input(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talked(base, "Why?", monkeypatch, capsys, chat=True) == ("> Why?\nIt is so.\n> \n", "")


def test_every_turn_of_a_chat_draws_numbers_of_its_own(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = {"temperature": 9.0, "seed": 1, "max_new_tokens": 8}
    first, again = (talked(base, "Why?\n/new\nWhy?\n", monkeypatch, capsys, **drawn)[0] for _ in range(2))
    assert first == again
    before, after = first.split("> /new\n")
    assert before != after.removesuffix("> \n")


def test_what_a_chat_cannot_answer_is_told_and_it_goes_on(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = talked(base, f"{'too long ' * 40}\nWhy?\n", monkeypatch, capsys)
    assert out.endswith("> Why?\nIt is so.\n> \n")
    assert err.startswith("not answered: the prompt has ")
    assert err.endswith("shorten the prompt or the answer; /new starts over\n")


def test_a_chats_last_answers_are_cut_where_the_model_reads_no_more(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room = 256 - len(encoded_prompt(generate_config(base, prompt="x"), ByteTokenizer())) + 1
    out, err = talked(base, "x" * (room - 4), monkeypatch, capsys)
    assert len(out.splitlines()[1]) == 4
    assert err == ""


def test_ctrl_c_cuts_an_answer_and_the_chat_goes_on(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode, calls = ByteTokenizer.decode, []

    def interrupted(self: ByteTokenizer, ids: Any) -> str:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return decode(self, ids)

    tokenizer = ByteTokenizer()
    monkeypatch.setattr("torchtune.config.instantiate", _instantiated(tokenizer))
    monkeypatch.setattr("torchtune.generation._prompts.check_chat", lambda _: None)
    monkeypatch.setattr(ByteTokenizer, "decode", interrupted)
    out, _ = talked(base, "Why?\nWhy?\n", monkeypatch, capsys)
    assert out == f"> Why?\nIt \n> Why?\n{said(base, 'Why?', 'It ', 'Why?')}\n> \n"


def _instantiated(tokenizer: ByteTokenizer) -> Any:
    return lambda component: tokenizer if component.func is ByteTokenizer else instantiate(component)


@pytest.fixture
def as_run(tmp_path: Path) -> Path:
    """Make a run's folder that the config `generate` can read."""
    config = json.dumps(tokenizer_config())
    words = write(
        tmp_path / "words", tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config
    )
    run = write(tmp_path / "run", config__yaml="")
    save_hf_folder(tiny_smollm2(tied_embeddings=False), run / "final", tokenizer_directory=words)
    return run


CALL = ("alpaca_generate", "--config", "generate")


def test_mistakes_in_the_config_are_found_before_anything_is_loaded(tune: Tune) -> None:
    mistakes = {
        "prompt=a chat=true": "prompts have one source, not prompt and chat; write prompt=null",
        "prompts=[a] prompts_file=b": "prompts have one source, not prompts and prompts_file; write prompts=null",
        "chat=false": "nothing is asked; give prompt, prompts or prompts_file",
        "prompt=": "prompt: expected text that is not empty or null",
        "prompts=[]": "prompts: expected",
        "prompt=a continue_final_message=true": "continue_final_message: there is no prompts_file",
        "prompts=[a,'']": "prompts: expected",
        "input=a prompts=[b]": "input is what prompt is about, and there is no prompt",
        "output_file=a": "a chat goes to the terminal alone; give prompts, or leave output_file out",
        "prompt=a template=plain system=b": "the plain template has no place for it; write template=chat",
        "prompt=a template=alpaca system=b": "the alpaca template has no place for it; write template=chat",
        "template=alpaca": "the alpaca template has no turns to talk in",
        "prompt=a template=vicuna": "template: expected",
        "prompt=a top_k=5": "top_k has no effect at temperature 0; write a temperature, or top_k=null",
        "prompt=a top_p=0.5": "top_p has no effect at temperature 0",
        "prompt=a min_p=0.5": "min_p has no effect at temperature 0",
        "prompt=a temperature=1 top_p=0": "top_p: expected",
        "prompt=a temperature=1 min_p=1.5": "min_p: expected",
        "prompt=a temperature=-1": "temperature: expected",
        "prompt=a repetition_penalty=0": "repetition_penalty: expected",
        "prompt=a stop=['']": "stop: expected",
        "prompt=a batch_size=0": "batch_size: expected",
        "prompt=a max_new_tokens=0": "max_new_tokens: expected",
    }
    for words, message in mistakes.items():
        result = tune(*CALL, "model_directory=nowhere", *words.split())
        assert result.status == 2, words
        assert message in result.err, words
        assert result.err.startswith("1 mistake in the config"), result.err


def test_files_that_are_wrong_are_told_before_anything_is_loaded(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"texts": "a"}\n')
    (tmp_path / "there").touch()
    mistakes = {
        f"prompts_file={tmp_path / 'a.jsonl'}": "a.jsonl: line 2: a prompt is a text or a row with one of",
        f"prompts_file={tmp_path / 'b.txt'}": f"prompts file not found: {tmp_path / 'b.txt'}",
        f"prompt=a output_file={tmp_path / 'there'}": "is there already; name a new file, or remove it",
        "prompt=a": "there is no folder nowhere (relative paths start at",
    }
    for words, message in mistakes.items():
        result = tune(*CALL, "model_directory=nowhere", *words.split())
        assert (result.status, result.err.startswith("tune: ")) == (2, True), words
        assert message in result.err, words


def test_a_prompt_that_is_too_long_is_named_before_weights_are_read(
    tune: Tune, as_run: Path, tmp_path: Path
) -> None:
    (as_run / "final/model.safetensors").unlink()
    (tmp_path / "a.txt").write_text("Who?\n" + "Who? " * 300)
    result = tune(
        *CALL, f"model_directory={as_run}", f"prompts_file={tmp_path / 'a.txt'}", "max_new_tokens=8"
    )
    assert result.status == 2
    assert "prompt 2 has " in result.err
    assert "exceeds the model's max_seq_len = 64" in result.err


def test_the_config_generate_answers_from_a_run(tune: Tune, as_run: Path) -> None:
    words = (f"model_directory={as_run}", "device=cpu", "max_new_tokens=8")
    result = tune(*CALL, *words, "prompt=Who are you?")
    assert (result.status, result.err) == (0, "")
    assert len(result.out.strip()) > 3
    both = tune(*CALL, *words, "prompts=[Who are you?, Why?]")
    assert both.out.startswith(f"> Who are you?\n{result.out}\n> Why?\n")
    own = tune(*CALL, *words, "prompt=Who are you?", "template=plain")
    assert own.out != result.out
    validated = tune("validate", *CALL, *words)
    assert validated.out.startswith("ok: ")
    (as_run / "final").rename(as_run / "other")
    unfinished = tune(*CALL, *words, "prompt=Who are you?")
    assert unfinished.status == 2
    assert "holds a run that has not ended: there is neither final/ nor best/ in it" in unfinished.err
