"""Bring the reductions of this package into other tools; each module is imported with its tool."""


def lmms_eval_models() -> object:
    """Return what lmms-eval's entry point group `lmms_eval.models` asks for: the model `vtc` and where its class is.

    >>> lmms_eval_models().simple_class_path
    'vtc_lab.integrations.lmms_eval.VTC'
    """
    from lmms_eval.models.registry_v2 import ModelManifest  # it calls this while it is itself only half imported

    return ModelManifest("vtc", simple_class_path=f"{__name__}.lmms_eval.VTC")
