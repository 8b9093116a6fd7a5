"""Ask many questions under many reductions: one row for each sample and setting, and no work done twice."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import TIMEOUT_MAX, Event
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from vtc_lab.clips.reading import check_reading
from vtc_lab.reducers.inside import FIRST_BY
from vtc_lab.sweeps.jobs import Asking, Finished, Job, Setting, work
from vtc_lab.sweeps.keys import portable, result_origins
from vtc_lab.sweeps.plan import Chosen, Plan, make_plan, settings_of
from vtc_lab.sweeps.progress import Progress, notebook_bar, seconds_left
from vtc_lab.sweeps.store import UNSAVED, Store
from vtc_lab.sweeps.workers import work_elsewhere
from vtc_lab.tokens import VTCError, demand_one_of

if TYPE_CHECKING:  # importing the model imports transformers, which takes seconds
    from vtc_lab.models.video_model import VideoModel

_COLLAPSED, _MANY = 0.45, 20  # a share of the answers that one letter takes, of no fewer than so many
STAGES = ("read", "encode", "reduce", "prefill", "decode")


def sweep(
    model: VideoModel,
    samples: Iterable[Mapping[str, Any]],
    methods: Sequence[Chosen] = ("lftr", "uniform", "random"),
    ratios: Sequence[float | None] = (1, 2, 4, 8, 16),
    *,
    seeds: Sequence[int] = (0,),
    frames: int | None = None,
    fps: float | None = None,
    positions: Literal["preserve", "compact"] = "preserve",
    max_new_tokens: int = 16,
    budget: Literal["enters", "mean"] = "enters",
    results: str | os.PathLike | None = None,
    executor: Executor | None = None,
    timeout: float | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | Event | None = None,
) -> pd.DataFrame:
    """Answer every sample under every method, seed and ratio, and return a row for each.

    A clip is read and encoded once, and in part for each setting with a `stage` before the encoder. A reduction is
    prefilled once for all questions on its clip, and reductions to the same number of tokens are prefilled together.
    Nothing that fails ends the sweep: its rows say so.

    Parameters
    ----------
    model : from `load_model`.
    samples : dicts as `Sample`: clip (a path, or a Clip), question, answer, and candidates, range, rule and so on if
        there are any. Answers are scored as by `score`.
    methods : registered names, or pairs of a name and its options; `variants` makes such pairs. A name may stand for a
        stage inside the language model ("fastv"), or for one before it and one inside ("holitom + holitom-inner"). The
        option `stage` of what is before says what is decided before the vision encoder, see `reduce_clip`.
    ratios : each 1 or more; None leaves the budget to the options (lftr: `temporal_ratio`, `spatial_ratio`).
    seeds : each is given to the methods that have a seed; the others run once.
    frames, fps : as for `read_clip`, but by default 16 frames, or all if there are fewer. A Clip is taken as it is.
    positions, max_new_tokens : as for `VideoModel.ask`.
    budget : what ratios are of. "enters": the tokens that enter the language model, or, of a stage inside alone, that
        are left in the last layer. "mean": those that its layers hold on average, the same without a stage inside.
    results : an SQLite file, which several sweeps on one host may share. Each result is written as soon as it is
        there, and not computed again while all that it depends on is the same: the sample, the clip's bytes, how it was
        read and asked, the setting, the sources of this package and of the method, the versions of torch, transformers
        and the video readers, the model's files or its commit on the hub, device and dtype. A model that was changed in
        memory is refused until it has a name, see `VideoModel.revision`. Crashes and unread clips are tried again.
    executor : None to work here, or any Executor, such as `ProcessPoolExecutor()` or, for a cluster,
        `dask.distributed.Client(...).get_executor()`. Each worker loads the model once, on the kind of device and in
        the dtype of `model`, and does whole clips. A model that was changed in memory or has a revision is not sent to
        other processes: their rows are errors that say so. What a broken process pool leaves is done here.
    timeout : seconds that a worker of the executor may take for a clip, from reading it to its last answer, or None.
        What is not done by then is given up: its rows say so and are tried again next time. The worker goes on with
        the next clip, for which it loads the model anew, and neither the executor nor Python waits for what hangs when
        it ends. Only native code that hangs with the interpreter's lock cannot be given up.
    progress : called with a `Progress` at the start and whenever something is done; `print` prints how far it is. None
        shows a bar with the time left below a notebook's cell, and nothing elsewhere.
    stop : a function or Event that is asked between the steps; once it is true, what is done is returned.

    Returns
    -------
    DataFrame, in the order of samples, methods, seeds and ratios. All columns are there even without rows:

    - sample (a name of its content), model, clip, kind, question, answer;
    - method, options (JSON of those that are not default, "" for none), label, seed (0 where there is none), ratio;
    - kept and total tokens, of which `kept` enter the language model;
    - said, right, likelihood (probability of the right answer among the candidates, if there are any), kl and tv
      (from everything to what was kept, see `answer_fidelity`), flipped (the text is not that with everything), recall
      (of the evidence, on clips of the generated world, see `evidence_recall`);
    - read_s, encode_s, reduce_s, prefill_s, decode_s: seconds. Reading, encoding (of what `stage` leaves) and reducing
      count in full on every row; prefill and decoding are the batch's divided by its answers. Rows that keep everything
      share one run;
    - engaged: as many visual tokens reached the language model as were kept; status: "ok", "minimum" (the method cannot
      keep this budget) or "error"; error: in words. Rows that are not ok have no result, and NaN for it;
    - frames (that were read), likeliest (the candidate with the highest probability; "" if two share it, or without
      candidates), per_layer (visual tokens that the layers held on average; as `kept` without a stage inside),
      cache_bytes (of keys and values at the end of the answer, see `Answer`), letter (of the option that the text was
      taken for; "" if it is unclear, or without options), id and group (of the sample in its benchmark; "" if it has
      none), asked (JSON of those of frames, fps, positions, max_new_tokens and budget that are not default, "" for
      none).

    Raises
    ------
    VTCError
        Before anything is done, for an argument that is none of the above.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip, asked = vtc.make_clip(7)
    >>> table = sweep(vtc.load_model(), [sample | {"clip": clip} for sample in asked], ["uniform"], [1, 2])
    >>> len(table) == 2 * len(asked), table.kept.unique().tolist(), set(table.status)
    (True, [5292, 2646], {'ok'})
    """
    if not (executor is None or hasattr(executor, "submit")):
        raise VTCError(f"executor is {executor!r:.60}; give None or an Executor")
    if timeout is not None and not (executor and 0 < timeout <= TIMEOUT_MAX):
        raise VTCError(f"timeout is {timeout!r:.60}; give None or seconds above 0, and an executor")
    asking = Asking(frames, fps, positions, max_new_tokens, budget)
    plan = _planned(model, samples, settings_of(methods, ratios, seeds), asking, results)
    halted: Any = getattr(stop, "is_set", stop) or (lambda: False)
    progress = progress or notebook_bar()
    store = None if results is None else Store(results)
    found = store.known(plan.keys) if store else {}
    before, total = plan.progress(found)
    done, started = before, time.perf_counter()

    def keep(finished: Iterable[Finished]) -> None:
        if store:
            store.add(plan.stored(finished, store.saved))
        if progress:
            left = seconds_left(started, done - before, total - before)
            progress(Progress(done, total, left, lambda: plan.table(found)))

    keep(plan.there(found))  # which may be there under another id alone
    for finished in _work(model.fresh(), executor, timeout, plan.jobs(found), halted):
        found |= {plan.keys[i][n]: result for i, n, result in finished}
        done += len({n for _, n, _ in finished})
        keep(finished)
    if store:
        store.add(plan.stored(plan.there(found), store.saved))
        for key in store.unsaved(found):
            found[key] = found[key]._replace(error="; ".join(filter(None, (found[key].error, store.problem))))
    return plan.table(found)


def look_up(
    model: VideoModel,
    samples: Iterable[Mapping[str, Any]],
    methods: Sequence[Chosen],
    ratios: Sequence[float | None],
    *,
    results: str | os.PathLike,
    seeds: Sequence[int] = (0,),
    **asking: Any,
) -> Progress:
    """Return how much of a sweep is in its results file, and that as a table, without computing anything.

    The arguments are those of `sweep`; `asking` are frames, fps, positions, max_new_tokens and budget.
    """
    plan = _planned(model, samples, settings_of(methods, ratios, seeds), Asking(**asking), results)
    found = Store(results).known(plan.keys)
    return Progress(*plan.progress(found), math.nan, lambda: plan.table(found))


def summary(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Count the rows of a sweep that have a result, and say why the others have none.

    Parameters
    ----------
    table : from `sweep` or `read_results`.

    Returns
    -------
    DataFrame with the columns ok, minimum, error and unsaved (computed, but not written to the results file), and one
    for each letter that questions with options were answered by; a row for each label and "all" as the last. And a
    sentence, which warns where one letter takes 45 % of 20 or more answers and is right less often: so a model fails
    that sees too little.

    Examples
    --------
    >>> import vtc_lab as vtc
    >>> clip, asked = vtc.make_clip(7)
    >>> table = sweep(vtc.load_model(), [asked[0] | {"clip": clip}, asked[0] | {"clip": "gone.mp4"}], ["pool"], [2])
    >>> counts, sentence = summary(table)
    >>> counts.loc["all"].tolist(), sentence.split(";")[0]
    ([1, 0, 1, 0], '2 results: 1 ok, 0 at budgets that a method cannot keep, 1 failed')
    """
    missing = {"label", "status", "error"} - set(getattr(table, "columns", ()))
    if missing or not table.columns.is_unique:
        reason = f"has no column {min(missing)!r}" if missing else "has a column twice"
        raise VTCError(f"the table {reason}; give the DataFrame that vtc.sweep returns")
    errors = table.error.astype(object).where(table.error.notna(), "").astype(str)  # a saved CSV has NaN for ""
    counts = pd.DataFrame({status: table.status == status for status in ("ok", "minimum", "error")})
    counts["unsaved"] = errors.str.contains(UNSAVED, regex=False)
    counts = counts.groupby(table.label, sort=False).sum().astype(int)
    chosen = table[table.letter.fillna("") != ""] if "letter" in table else table[:0]
    if len(chosen):
        counts = counts.join(pd.crosstab(chosen.label, chosen.letter)).fillna(0).astype(int)
    counts.loc["all"] = counts.sum()
    ok, minimum, failed, unsaved, *_ = counts.loc["all"]
    words = [f"{len(table)} results: {ok} ok, {minimum} at budgets that a method cannot keep, {failed} failed"]
    if failed:
        reasons = errors[table.status == "error"].value_counts()
        words.append(f"most often ({reasons.iloc[0]} times): {reasons.index[0]}")
    if unsaved:
        words.append(f"{unsaved} could not be saved")
    return counts, "; ".join(words + _collapsed(chosen))


def _collapsed(chosen: pd.DataFrame) -> list[str]:
    """Name the settings that answer with one letter too often, in words."""
    found = []
    for (label, ratio), rows in chosen.groupby(["label", "ratio"], sort=False) if len(chosen) else ():
        shares = rows.letter.value_counts(normalize=True)
        right = (rows.answer == shares.index[0]).mean()
        if len(rows) >= _MANY and shares.iloc[0] >= _COLLAPSED > right:
            found.append(f"{label} at {ratio:g}x says {shares.index[0]} in {shares.iloc[0]:.0%}, right in {right:.0%}")
    return [f"one letter takes {_COLLAPSED:.0%} of the answers: {', '.join(found)}"] if found else []


def _planned(model: VideoModel, samples: Iterable, settings: list[Setting], asking: Asking, results: object) -> Plan:
    from vtc_lab.models.before_encoding import check_stage  # transformers, which whoever has a model has imported
    from vtc_lab.models.compression import demand_asking
    from vtc_lab.models.video_model import VideoModel

    if not isinstance(model, VideoModel):
        raise VTCError(f"model is {model!r:.60}; give what vtc.load_model gives")
    check_reading(asking.frames, asking.fps)
    demand_asking(asking.positions, asking.max_new_tokens)
    demand_one_of("budget", asking.budget, ("enters", "mean"))
    asking = Asking(*map(portable, vars(asking).values()))
    for setting in settings:
        if setting.stage != "features":
            check_stage(model.family, setting.stages[0], setting.stage, setting.options)
    methods = {setting.method for setting in settings}
    methods |= {FIRST_BY for setting in settings if setting.stage == "both"}
    origins = dict.fromkeys(methods, "") if results is None else result_origins(model, methods)
    return make_plan(model.name, samples, settings, asking, origins)


def _work(
    model: VideoModel, executor: Executor | None, timeout: float | None, jobs: list[Job], halted: Callable[[], bool]
) -> Iterator[list[Finished]]:
    """Yield what is finished, until all jobs are done or `halted`."""
    left = jobs
    if executor is not None:
        left = yield from work_elsewhere(model, executor, jobs, timeout, halted)
        if left and not halted():
            words = f"the workers broke off; {len(left)} of {len(jobs)} clips are done in this process"
            warnings.warn(words, RuntimeWarning, stacklevel=4)
        if left and timeout:
            with ThreadPoolExecutor(1) as here:
                left = yield from work_elsewhere(model, here, left, timeout, halted)
    for job in left:
        if halted():
            return
        for finished in work(model, job):
            yield finished
            if halted():
                return
