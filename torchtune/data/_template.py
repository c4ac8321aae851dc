"""Chat templates: how a model family writes a conversation out as one text."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from attrs import frozen

if TYPE_CHECKING:
    from jinja2 import Template


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    """Who speaks: "system", "user" or "assistant", or what else the template knows."""
    content: str
    """What they say."""


@frozen
class ChatTemplate:
    """A model's chat template, as its tokenizer_config.json or GGUF file holds it.

    The language is Jinja with the settings and names that Hugging Face documents for chat templates
    (https://huggingface.co/docs/transformers/chat_templating_writing), except `strftime_now`: a prompt
    that holds today's date would make the same run differ from day to day. Templates come with
    downloaded models, so they run in Jinja's sandbox and cannot change what they are given.
    """

    source: str
    bos_token: str = ""
    eos_token: str = ""

    def render(self, messages: list[Message], add_generation_prompt: bool) -> str:
        """Write a conversation out.

        Args:
            messages: The turns, oldest first.
            add_generation_prompt: End with the words that open the assistant's answer.

        Raises:
            ValueError: the template is not valid Jinja, or refuses these messages.
        """
        try:
            return self._compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except Exception as error:  # A template is a program of its own and may fail in any way.
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(f"the chat template refused messages of the roles {roles}: {error}") from error

    @cached_property
    def _compiled(self) -> "Template":
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        return environment.from_string(self.source)


def _to_json(value: Any, indent: int | None = None) -> str:  # A template may pass anything it holds.
    """Write JSON as it is; Jinja's own filter escapes it for HTML."""
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    """Let a template refuse what it is given."""
    from jinja2 import TemplateError

    raise TemplateError(message)
