"""What brings the reductions of this package into other tools: a module for each, imported with its tool."""


def lmms_eval_models() -> object:
    """What lmms-eval finds here by the entry point group `lmms_eval.models`: the model `vtc` and where its class is.

    Returns
    -------
    ModelManifest of lmms-eval. It is given by a function of this module, because lmms-eval asks for it while it is
    itself only half imported.

    Examples
    --------
    >>> lmms_eval_models().simple_class_path
    'vtc_lab.integrations.lmms_eval.VTC'
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vtc", simple_class_path=f"{__name__}.lmms_eval.VTC")
