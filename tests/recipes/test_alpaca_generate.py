"""The alpaca_generate recipe: single prompts, files of prompts, chats, and mistakes in the config."""

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

OVERFIT: dict[str, Any] = {
    "epochs": 50,
    "batch_size": 6,
    "optimizer": lazy(AdamW, lr=2e-2, fused=True),
    "lr_scheduler": None,
}


def rows_with_answer(text: str) -> list[dict[str, str]]:
    return [row | {"output": text} for row in ROWS]


def encoded_prompt(cfg: AlpacaGenerateConfig, tokenizer: Tokenizer) -> list[int]:
    """Return the token ids of a config's prompt."""
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
    """Train a model that gives the same answer to every prompt, and return its folder."""
    folder = tmp_path_factory.mktemp("base")
    with only_trusting(Trust(packages=frozenset({"tests"}))):
        full_finetune.main(full_config(folder, rows=rows_with_answer("It is so."), **OVERFIT))
    return folder / "full" / "final"


def greedy_answer(base: Path, adapter: Path, ids: list[int], max_tokens: int) -> str:
    """Compute the greedy answer without a cache, with the adapter merged into the weights."""
    tokenizer, model = ByteTokenizer(), instantiate(TINY)
    load_hf_weights(model, base)
    load_peft_adapter(model, adapter)
    merge_lora(model)
    answer: list[int] = []
    while len(answer) < max_tokens:
        token = int(model(torch.tensor([ids + answer]))[0, -1].argmax())
        if token in tokenizer.stop_ids:
            break
        answer.append(token)
    return tokenizer.decode(answer)


@pytest.mark.slow
def test_answers_of_base_model_and_adapter_are_printed(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base_settings = {"model_directory": str(base), "tokenizer_directory": None, "epochs": 5}
    lora_finetune.main(lora_config(tmp_path, rows=rows_with_answer("Who knows?"), **OVERFIT | base_settings))
    adapter = tmp_path / "lora" / "final"
    capsys.readouterr()
    alpaca_generate.main(generate_config(base))
    assert capsys.readouterr().out == "It is so.\n"
    cfg = generate_config(base, adapter_directory=str(adapter))
    alpaca_generate.main(cfg)
    answer = capsys.readouterr().out
    expected = greedy_answer(base, adapter, encoded_prompt(cfg, ByteTokenizer()), cfg.max_new_tokens)
    assert answer == expected + "\n"
    assert answer != "It is so.\n"


@pytest.mark.parametrize("template", ["chat", "alpaca", "plain"])
def test_an_answer_begins_with_the_prefill(
    base: Path, capsys: pytest.CaptureFixture[str], template: Any
) -> None:
    alpaca_generate.main(generate_config(base, prefill="It is", template=template))
    out = capsys.readouterr().out
    assert out.startswith("It is")
    if template == "chat":  # the template of the training examples
        assert out == "It is so.\n"


def test_answers_begin_with_the_prefills_in_a_prompts_file(base: Path, tmp_path: Path) -> None:
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
        configs = [generate_config(base, prompt="Why?", prefill=beginning) for beginning in beginnings]
        assert [line["generated"] for line in lines] == [expected_answer(cfg) for cfg in configs]
        assert [{k: v for k, v in line.items() if k != "generated"} for line in lines] == rows


def expected_answer(cfg: AlpacaGenerateConfig) -> str:
    """Return the prefill of a config, followed by the model's continuation."""
    tokenizer, model = ByteTokenizer(), instantiate(TINY)
    load_hf_weights(model, cfg.model_directory)
    ids = encoded_prompt(cfg, tokenizer)
    continuation = generate(model, ids, max_new_tokens=cfg.max_new_tokens, stop_ids=tokenizer.stop_ids)
    return cfg.prefill + tokenizer.decode(list(continuation))


def test_best_model_of_a_run_is_used_unless_the_final_model_is_requested(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run", config__yaml="")
    shutil.copytree(base, run / "best")
    save_hf_folder(instantiate(TINY), run / "final")
    output = {}
    for folder in (run, run / "best", run / "final"):
        alpaca_generate.main(generate_config(base, model_directory=str(folder)))
        output[folder] = capsys.readouterr()
    assert output[run].out == output[run / "best"].out != output[run / "final"].out
    expected = (
        f"note: using {run / 'best'}, the model with the lowest validation loss; {run / 'final'} is the model"
    )
    assert output[run].err.startswith(expected)
    assert output[run / "best"].err == output[run / "final"].err == ""


def test_sampling_depends_on_the_seed(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for seed in (1, 1, 2):
        alpaca_generate.main(generate_config(base, temperature=5.0, seed=seed))
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert answers[1] != answers[2]


def test_prompts_are_formatted_as_in_training(base: Path) -> None:
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


def test_the_alpaca_template_has_no_system_message(base: Path) -> None:
    with pytest.raises(ValueError, match="set template=chat"):
        encoded_prompt(generate_config(base, template="alpaca", system="Be brief."), ByteTokenizer())


QUESTIONS = ["What is 2 plus 2?", "What is 4 plus 4?", "Why?"]


def expected_reply(base: Path, *turns: str) -> str:
    """Return the model's reply to a conversation that alternates between user and model."""
    tokenizer, model = ByteTokenizer(), instantiate(TINY)
    load_hf_weights(model, base)
    roles = ("user", "assistant")
    tokens = chat_prompt(
        tokenizer, [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]
    )
    return tokenizer.decode(list(generate(model, tokens, max_new_tokens=40, stop_ids=tokenizer.stop_ids)))


def test_several_prompts_are_printed_with_their_answers(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = generate_config(base, prompt=None, prompts=QUESTIONS, batch_size=2)
    alpaca_generate.main(cfg)
    out = capsys.readouterr().out
    assert out == "".join(f"> {question}\n{expected_reply(base, question)}\n\n" for question in QUESTIONS)
    assert expected_reply(base, QUESTIONS[0]) == "It is so."


def test_answers_to_a_prompts_file_are_written_as_json_lines(base: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "What is 2 plus 2?", "input": "", "id": 1},
        {"prompt": "Naïve?"},
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    out = tmp_path / "out.jsonl"
    files = {"prompts_file": str(tmp_path / "rows.json"), "output_file": str(out), "batch_size": 2}
    alpaca_generate.main(generate_config(base, prompt=None, **files))
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    questions = ["What is 2 plus 2?", "Naïve?", "Why?"]
    assert lines == [
        {**row, "generated": expected_reply(base, text)} for row, text in zip(rows, questions, strict=True)
    ]
    assert "Naïve" in out.read_text(encoding="utf-8")
    with pytest.raises(
        FileExistsError, match="already exists; choose a different path, or delete the existing file"
    ):
        alpaca_generate.main(generate_config(base, prompt=None, **files))


@pytest.mark.usefixtures("fp32_is_float64")  # rounding could change which token is sampled
def test_sampled_answers_do_not_depend_on_the_batch_size(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for batch_size in (1, 2, 3):
        sampling = {"temperature": 3.0, "top_p": 0.9, "seed": 1, "max_new_tokens": 8}
        alpaca_generate.main(
            generate_config(base, prompt=None, prompts=QUESTIONS, batch_size=batch_size, **sampling)
        )
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] == answers[2] != ""


def test_an_answer_ends_before_a_stop_string(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alpaca_generate.main(generate_config(base, stop=["is so", "never"]))
    assert capsys.readouterr().out == "It \n"


def chat(
    base: Path,
    typed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    **changes: Any,
) -> tuple[str, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    alpaca_generate.main(generate_config(base, prompt=None, **changes))
    return capsys.readouterr()


def test_a_chat_through_a_pipe_echoes_the_conversation(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversations: list[list[str]] = []
    render = ByteTokenizer.encode_template

    def recorded_render(self: ByteTokenizer, text: str, *args: Any) -> list[int]:
        conversations.append([turn.partition("<|im_end|>")[0] for turn in text.split("<|im_start|>")[1:]])
        return render(self, text, *args)

    monkeypatch.setattr(ByteTokenizer, "encode_template", recorded_render)
    typed = "What is 2 plus 2?\n\n  Why?  \n/new\nWho?\n/exit\nNever asked\n"
    out, err = chat(base, typed, monkeypatch, capsys)
    second_answer = expected_reply(base, "What is 2 plus 2?", "It is so.", "Why?")
    assert out == (
        f"> What is 2 plus 2?\nIt is so.\n> \n> Why?\n{second_answer}\n"
        f"> /new\n> Who?\n{expected_reply(base, 'Who?')}\n> /exit\n"
    )
    assert err == ""
    first, second, third = ("user\nWhat is 2 plus 2?", "user\nWhy?", "user\nWho?")
    answer, unanswered = "assistant\nIt is so.", "assistant\n"
    assert [first, unanswered] in conversations
    assert [first, answer, second, unanswered] in conversations
    assert [third, unanswered] in conversations
    assert not any("Never" in turn for turns in conversations for turn in turns)


def test_a_chat_ends_when_the_input_ends(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(base, "Why?", monkeypatch, capsys, chat=True) == ("> Why?\nIt is so.\n> \n", "")


def test_every_turn_of_a_chat_samples_different_tokens(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling = {"temperature": 9.0, "seed": 1, "max_new_tokens": 8}
    first, second = (chat(base, "Why?\n/new\nWhy?\n", monkeypatch, capsys, **sampling)[0] for _ in range(2))
    assert first == second
    before, after = first.split("> /new\n")
    assert before != after.removesuffix("> \n")


def test_a_chat_reports_a_message_that_is_too_long_and_continues(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = chat(base, f"{'too long ' * 40}\nWhy?\n", monkeypatch, capsys)
    assert out.endswith("> Why?\nIt is so.\n> \n")
    assert err.startswith("not answered: the prompt has ")
    assert err.endswith("shorten the prompt or lower max_new_tokens; /new starts over\n")


def test_the_last_answer_of_a_chat_is_truncated_at_the_models_maximum_length(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    max_length = 256 - len(encoded_prompt(generate_config(base, prompt="x"), ByteTokenizer())) + 1
    out, err = chat(base, "x" * (max_length - 4), monkeypatch, capsys)
    assert len(out.splitlines()[1]) == 4
    assert err == ""


def test_ctrl_c_ends_an_answer_and_the_chat_continues(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode, calls = ByteTokenizer.decode, []

    def interrupted(self: ByteTokenizer, ids: Any) -> str:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return decode(self, ids)

    tokenizer = ByteTokenizer()
    monkeypatch.setattr("torchtune.config.instantiate", _instantiate_with(tokenizer))
    monkeypatch.setattr("torchtune.generation._prompts.check_chat", lambda _: None)
    monkeypatch.setattr(ByteTokenizer, "decode", interrupted)
    out, _ = chat(base, "Why?\nWhy?\n", monkeypatch, capsys)
    assert out == f"> Why?\nIt \n> Why?\n{expected_reply(base, 'Why?', 'It ', 'Why?')}\n> \n"


def _instantiate_with(tokenizer: ByteTokenizer) -> Any:
    return lambda component: tokenizer if component.func is ByteTokenizer else instantiate(component)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Create a run folder that the config `generate` can use."""
    config = json.dumps(tokenizer_config())
    tokenizer_folder = write(
        tmp_path / "tokenizer", tokenizer__json=tiny_tokenizer().to_str(), tokenizer_config__json=config
    )
    run = write(tmp_path / "run", config__yaml="")
    save_hf_folder(tiny_smollm2(tied_embeddings=False), run / "final", tokenizer_directory=tokenizer_folder)
    return run


CALL = ("alpaca_generate", "--config", "generate")


def test_mistakes_in_the_config_are_reported_before_anything_is_loaded(tune: Tune) -> None:
    mistakes = {
        "prompt=a chat=true": "only one source of prompts is allowed, got prompt and chat; set prompt=null",
        "prompts=[a] prompts_file=b": "only one source of prompts is allowed, got prompts and prompts_file; set",
        "chat=false": "there is no prompt; set prompt, prompts or prompts_file",
        "prompt=": "prompt: expected text that is not empty or null",
        "prompts=[]": "prompts: expected",
        "prompt=a continue_final_message=true": "continue_final_message has no effect without prompts_file",
        "prompts=[a,'']": "prompts: expected",
        "input=a prompts=[b]": "input has no effect without prompt",
        "output_file=a": "the answers of a chat cannot be written to a file; set prompts, or remove output_file",
        "prompt=a template=plain system=b": "the plain template does not support a system message; set template=chat",
        "prompt=a template=alpaca system=b": "the alpaca template does not support a system message; set template=chat",
        "template=alpaca": "the alpaca template does not support chats",
        "prompt=a template=vicuna": "template: expected",
        "prompt=a top_k=5": "top_k has no effect at temperature 0; set temperature, or top_k=null",
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
    for args, message in mistakes.items():
        result = tune(*CALL, "model_directory=nowhere", *args.split())
        assert result.status == 2, args
        assert message in result.err, args
        assert result.err.startswith("1 mistake in the config"), result.err


def test_invalid_files_are_reported_before_anything_is_loaded(tune: Tune, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n{"texts": "a"}\n')
    (tmp_path / "existing").touch()
    mistakes = {
        f"prompts_file={tmp_path / 'a.jsonl'}": "a.jsonl: line 2: expected a string, or a row with exactly one of",
        f"prompts_file={tmp_path / 'b.txt'}": f"prompts file not found: {tmp_path / 'b.txt'}",
        f"prompt=a output_file={tmp_path / 'existing'}": "already exists; choose a different path",
        "prompt=a": "folder nowhere does not exist (relative paths are resolved against",
    }
    for args, message in mistakes.items():
        result = tune(*CALL, "model_directory=nowhere", *args.split())
        assert (result.status, result.err.startswith("tune: ")) == (2, True), args
        assert message in result.err, args


def test_a_prompt_that_is_too_long_is_reported_before_weights_are_read(
    tune: Tune, run_folder: Path, tmp_path: Path
) -> None:
    (run_folder / "final/model.safetensors").unlink()
    (tmp_path / "a.txt").write_text("Who?\n" + "Who? " * 300)
    result = tune(
        *CALL, f"model_directory={run_folder}", f"prompts_file={tmp_path / 'a.txt'}", "max_new_tokens=8"
    )
    assert result.status == 2
    assert "prompt 2 has " in result.err
    assert "exceeds the model's max_seq_len = 64" in result.err


def test_generate_config_uses_the_model_of_a_run(tune: Tune, run_folder: Path) -> None:
    args = (f"model_directory={run_folder}", "device=cpu", "max_new_tokens=8")
    result = tune(*CALL, *args, "prompt=Who are you?")
    assert (result.status, result.err) == (0, "")
    assert len(result.out.strip()) > 3
    multiple = tune(*CALL, *args, "prompts=[Who are you?, Why?]")
    assert multiple.out.startswith(f"> Who are you?\n{result.out}\n> Why?\n")
    plain = tune(*CALL, *args, "prompt=Who are you?", "template=plain")
    assert plain.out != result.out
    validated = tune("validate", *CALL, *args)
    assert validated.out.startswith("ok: ")
    (run_folder / "final").rename(run_folder / "other")
    unfinished = tune(*CALL, *args, "prompt=Who are you?")
    assert unfinished.status == 2
    assert "has no weights yet (neither final/ nor best/)" in unfinished.err
