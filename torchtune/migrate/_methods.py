"""Detect configs of the original torchtune for unsupported methods."""

from collections.abc import Mapping
from typing import Any, Final

_BY_KEY: Final = {
    "policy_model": "PPO",
    "reward_and_value_model": "PPO",
    "ppo_epochs": "PPO",
    "ppo_batch_size": "PPO",
    "grpo_samples": "GRPO",
    "teacher_model": "knowledge distillation",
    "teacher_checkpointer": "knowledge distillation",
    "kd_loss": "knowledge distillation",
    "kd_ratio": "knowledge distillation",
    "reference_model": "preference tuning",
    "ref_checkpointer": "preference tuning",
    "fake_quant_after_n_steps": "quantization-aware training",
    "tasks": "an evaluation",
}
"""Fields that only configs for unsupported methods have, each with the method."""
_BY_COMPONENT: Final = {
    "PPO": "PPO",
    "GRPO": "GRPO",
    "DPO": "preference tuning (DPO)",
    "RSOLoss": "preference tuning (RSO)",
    "SimPO": "preference tuning (SimPO)",
    ".rlhf.": "preference tuning or reinforcement learning",
    "preference_dataset": "preference tuning",
    "stack_exchange_paired_dataset": "preference tuning",
    "hh_rlhf_helpful_dataset": "preference tuning",
    "ForwardKL": "knowledge distillation",
    "ReverseKL": "knowledge distillation",
    "QAT": "quantization-aware training",
}
"""Parts of the dotpath of a loss, dataset or quantizer, each with the method that it implies."""


def unsupported_method(tree: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the method of a config of the original torchtune that no recipe supports.

    Returns:
        The field that implies the method, and the method; None for supervised fine-tuning and generation.
    """
    for key, method in _BY_KEY.items():
        if tree.get(key) is not None:
            return key, method
    for key in ("loss", "dataset", "quantizer"):
        for part in tree[key] if isinstance(tree.get(key), list) else [tree.get(key)]:
            path = str(part.get("_component_", "")) if isinstance(part, Mapping) else ""
            methods = [method for word, method in _BY_COMPONENT.items() if word in path]
            if methods:
                return key, methods[0]
    if isinstance(tree.get("quantizer"), Mapping) and not {"optimizer", "prompt"} & tree.keys():
        return "quantizer", "quantization"
    return None
