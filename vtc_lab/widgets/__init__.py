"""The workbench: the explorer, the ablation panel and what they share."""
