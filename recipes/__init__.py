"""Recipes for training and generation, one program per file. These lists register all recipes and configs."""

_RECIPE_LIST = ["full_finetune", "lora_finetune", "alpaca_generate"]

_CONFIG_LISTS = {
    "full_finetune": ["alpaca_llama2_full_finetune", "smollm2_135m_full", "full"],
    "lora_finetune": ["alpaca_llama2_lora_finetune", "smollm2_135m_lora", "lora"],
    "alpaca_generate": ["generate", "alpaca_llama2_generate", "smollm2_135m_generate"],
}
