"""The results file of a sweep: nothing in it is done twice, nothing stale is taken from it, nothing breaks it."""

import os
import pickle
import resource
import runpy
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from contextlib import closing
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

import vtc_lab as vtc
from vtc_lab.models.loading import BUNDLED
from vtc_lab.models.video_model import VideoModel
from vtc_lab.qa.records import read_object, records
from vtc_lab.sweeps import keys
from vtc_lab.sweeps.keys import code_hash, identity
from vtc_lab.sweeps.run import look_up, summary
from vtc_lab.sweeps.store import COLUMNS, TABLE, UNSAVED, Store, read_results

ROOT = Path(__file__).resolve().parent.parent
OFFSET = 0


@pytest.fixture(scope="module")
def model():
    return vtc.load_model()


@pytest.fixture(scope="module")
def made():
    """Samples on two short clips."""
    pairs = [(clip[:4], asked) for clip, asked in (vtc.make_clip(seed, frames=8) for seed in (3, 4))]
    return [sample | {"clip": clip} for clip, asked in pairs for sample in asked]


@pytest.fixture
def calls(tmp_path):
    """The budgets that a method was called with; in a file, as what a method uses is a part of what it is."""
    log = str(tmp_path / "calls")
    Path(log).touch()

    @vtc.method(name="counted")
    def run(tokens, budget, *, seed: int = 0, share: float = 0.5):
        with open(log, "a") as file:
            file.write(f"{budget}\n")
        return vtc.prune(tokens, torch.arange(budget) + OFFSET)

    return lambda: Path(log).read_text().split()


def timeless(table):
    return table.drop(columns=[name for name in table if name.endswith("_s")])


def times_computed(path):
    with closing(sqlite3.connect(path)) as connection:
        return [count for (count,) in connection.execute(f"SELECT computed FROM {TABLE}")]


def in_child(function):
    """What a function returns in a forked process, which may limit or change itself; or its error."""
    with tempfile.TemporaryFile() as file:
        child = os.fork()
        if not child:
            try:
                file.write(pickle.dumps(function()))
                file.flush()
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.waitpid(child, 0)
        file.seek(0)
        return pickle.loads(file.read())


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_returns_the_same(model, made, calls, tmp_path):
    path = tmp_path / "results.db"
    first = vtc.sweep(model, made, ["counted", "lftr"], [2, 4], seeds=(0, 1), results=path)
    done = len(calls())
    states = []
    second = vtc.sweep(model, made, ["counted", "lftr"], [2, 4], seeds=(0, 1), results=path, progress=states.append)
    pd.testing.assert_frame_equal(first, second)  # the times too
    assert len(calls()) == done == 2 * 2 * 2 and [(s.done, s.total) for s in states] == [(12, 12)]
    assert path.read_bytes()[18:20] == b"\1\1"  # not in WAL mode, which network drives refuse
    assert not path.with_name("results.db-journal").exists() and set(times_computed(path)) == {1}
    in_memory = vtc.sweep(model, made, ["counted", "lftr"], [2, 4], seeds=(0, 1))
    pd.testing.assert_frame_equal(timeless(first), timeless(in_memory))
    order = ["model", "clip", "question", "sample", "method", "options", "seed", "ratio"]
    stored = read_results(path)
    pd.testing.assert_frame_equal(stored, first.sort_values(order, kind="stable", ignore_index=True))
    assert list(stored.columns) == list(COLUMNS)


@pytest.mark.slow
def test_only_what_is_new_is_computed(model, made, calls, tmp_path):
    path = tmp_path / "results.db"
    vtc.sweep(model, made[:3], ["counted"], [2], results=path)
    vtc.sweep(model, [*made, made[0]], ["counted", ("counted", {"share": 0.25})], [2, 4], results=path)
    assert len(calls()) == 1 + 4 + 4  # the first clip at ratio 2 is reduced again for its other questions
    assert set(times_computed(path)) == {1} and len(times_computed(path)) == len(made) * 4
    table = vtc.sweep(model, [made[0], made[0]], ["counted"], [2], results=path)
    assert len(table) == 2 and table.iloc[0].equals(table.iloc[1])


@pytest.mark.slow
def test_what_has_changed_is_computed_again(model, made, calls, tmp_path, monkeypatch):
    """Method, default, a constant that it uses, clip, candidates, weights: each makes another result."""
    path, clip = tmp_path / "results.db", tmp_path / "clip.mp4"
    one, other = [sample for sample in vtc.read_samples() if sample["frames"] == 8][:10:9]
    shutil.copy(one["clip"], clip)
    samples = [one | {"clip": clip}]

    def sweep(chosen=model, samples=samples):
        table = vtc.sweep(chosen, samples, ["counted"], [4], results=path)
        assert (table.status == "ok").all()
        return len(times_computed(path))

    assert sweep() == 1 and sweep() == 1
    monkeypatch.setitem(globals(), "OFFSET", 1)
    assert sweep() == 2
    monkeypatch.setitem(globals(), "OFFSET", 0)
    assert sweep() == 2  # as before

    @vtc.method(name="counted")
    def again(tokens, budget, *, seed: int = 0, share: float = 0.75):
        return vtc.prune(tokens, torch.arange(budget))

    assert sweep() == 3
    assert other["clip"] != one["clip"]
    clip.write_bytes(Path(other["clip"]).read_bytes())
    assert sweep() == 4
    assert sweep(samples=[samples[0] | {"candidates": [*samples[0]["candidates"], "mauve"]}]) == 5
    folder = tmp_path / BUNDLED.name
    shutil.copytree(BUNDLED, folder)
    copied = vtc.load_model(folder)
    assert sweep(copied) == 5  # the same weights, from another place
    with torch.no_grad():
        copied.network.get_output_embeddings().weight.mul_(1.5)
    copied.network.save_pretrained(folder)
    assert sweep(vtc.load_model(folder)) == 6
    assert sweep(vtc.load_model(dtype=torch.bfloat16)) == 7
    # Of each place the last one, and both clips and lists of candidates are such places.
    assert len(read_results(path)) == 2


def change_one_value(model):
    with torch.no_grad():
        model.network.get_output_embeddings().weight[3, 5] += 1


def merge_lora(model):
    """As peft does it, which torch's own count of changes does not see."""
    weight = model.network.get_output_embeddings().weight
    weight.data += torch.full((len(weight), 1), 1e-2) @ torch.ones(1, weight.shape[1])


CHANGES = {
    "a value": change_one_value,
    "LoRA": merge_lora,
    "another parameter": lambda m: setattr(m.network.lm_head, "weight", torch.nn.Parameter(m.network.lm_head.weight)),
    "a buffer": lambda m: next(m.network.buffers()).mul_(2),
    "dropout": lambda m: m.network.train(),
    "the configuration": lambda m: setattr(m.network.config.text_config, "rms_norm_eps", 0.1),
    "generation": lambda m: setattr(m.network.generation_config, "repetition_penalty", 5.0),
    "attention": lambda m: m.network.set_attn_implementation("eager"),
    "the template": lambda m: setattr(m.processor, "chat_template", m.processor.chat_template + " "),
    "the processor": lambda m: setattr(m.processor.video_processor, "image_mean", [0.2, 0.3, 0.4]),
    "a token": lambda m: m.processor.tokenizer.add_tokens(["zyzzyva"]),
    "padding": lambda m: setattr(m.processor.tokenizer, "padding_side", "right"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_of_a_model_is_noticed(change, made):
    model = vtc.load_model()
    model.ask("how many objects appear ?", made[0]["clip"])
    assert not model.changed
    change(model)
    assert model.changed
    with pytest.raises(vtc.VTCError, match="set model.revision"):
        identity(model)


def test_a_model_that_was_changed_in_memory_needs_a_name(made, tmp_path):
    """Also one that has answered the same questions before; put back, it is the old one."""
    path, model = tmp_path / "results.db", vtc.load_model()
    template = model.processor.chat_template

    def sweep():
        table = vtc.sweep(model, made[:2], ["uniform"], [1, 2], results=path)
        assert (table.status == "ok").all()
        return len(times_computed(path)), table.likelihood.tolist()

    def use(text):
        model.processor.chat_template = text

    count, before = sweep()
    use(template.replace("<answer>", "<answer><answer>"))
    for call in (sweep, partial(look_up, model, made[:2], ["uniform"], [1, 2], results=path)):
        with pytest.raises(vtc.VTCError, match="was changed since .* set model.revision to a name"):
            call()
    unnamed = vtc.sweep(model, made[:2], ["uniform"], [1, 2])  # without a file there is nothing to mistake
    model.revision = "two answers"
    more, answers = sweep()
    assert more == count + 4 and answers == unnamed.likelihood.tolist() != before
    assert sweep() == (more, answers)  # found again
    model.revision = None  # is no name for what it is now
    with pytest.raises(vtc.VTCError, match="was changed since it was loaded or named"):
        sweep()
    use(template)
    assert sweep() == (more, before)
    model.network.config._commit_hash = "0a1b"  # as of the hub, but nobody knows what was changed since
    bare = VideoModel(model.network, model.processor, "bare")
    with pytest.raises(vtc.VTCError, match="bare was not made by load_model; set model.revision"):
        identity(bare)
    bare.revision = "1"
    names = [identity(bare)]
    bare.revision = "2"
    merge_lora(bare)
    bare.revision = "1"  # a name that was used before, of other weights
    assert len({*names, identity(bare)}) == 2


def test_the_files_of_a_model_that_is_loaded_are_not_taken_for_it(made, tmp_path):
    folder = shutil.copytree(BUNDLED, tmp_path / BUNDLED.name)
    model = vtc.load_model(folder)
    (folder / "config.json").touch()
    with pytest.raises(vtc.VTCError, match="was changed since it was loaded"):
        vtc.sweep(model, made[:1], ["uniform"], [2], results=tmp_path / "results.db")


def test_what_is_stored_is_looked_up_and_nothing_computed(model, made, calls, tmp_path):
    path, given = tmp_path / "results.db", (model, made, ["counted"], [2, 4])
    empty = look_up(*given, results=path)
    assert (empty.done, empty.total, len(empty.table())) == (0, 4, 0) and calls() == []
    vtc.sweep(model, made, ["counted"], [2], results=path)
    full, done = vtc.sweep(model, made[:3], ["counted"], [2, 4], results=path), len(calls())
    half = look_up(*given, results=path)
    assert (half.done, half.total, len(half.table()), len(calls())) == (2, 4, len(made) + 3, done)
    pd.testing.assert_frame_equal(look_up(model, made[:3], *given[2:], results=path).table(), full)
    assert look_up(*given, results=path, frames=4).done == 0


def test_files_that_were_edited_after_they_were_imported_are_not_taken_for_what_runs(monkeypatch):
    monkeypatch.setitem(keys._IMPORTED, next(iter(keys._IMPORTED)), "another")
    with pytest.raises(vtc.VTCError, match="was changed after it was imported; restart Python"):
        keys.environment()


def test_the_hash_of_code_follows_its_source(tmp_path):
    def hashed(source, **more):
        file = tmp_path / f"code{len(list(tmp_path.iterdir()))}.py"
        file.write_text(source)
        scope = {"__name__": "notebook", **more}
        exec(compile(source, file, "exec"), scope)
        return code_hash(scope["f"])

    one = "def f(x, *, a: int = 1):\n    return g(x) + a\ndef g(x):\n    return x * K"
    assert hashed(one, K=2) == hashed(one, K=2, unused=3)
    different = [
        hashed(one, K=2),
        hashed(one, K=3),
        hashed(one, K=torch.zeros(9)),
        hashed(one, K=torch.ones(9)),
        hashed(one, K=torch.nn.Linear(9, 9)),
        hashed(one, K={"a": torch.zeros(2000)}),
        hashed(one, K={"a": torch.arange(2000) // 1000 - torch.arange(2000) // 1001}),
        hashed(one.replace("= 1", "= 2"), K=2),
        hashed(one.replace("= 1", "= K"), K=2),
        hashed(one.replace("+ a", "- a"), K=2),
        hashed(one.replace("x * K", "K * x"), K=2),  # of a function that it calls
        hashed("def h(k):\n    def f(x):\n        return x + k\n    return f\nf = h(1)"),
        hashed("def h(k):\n    def f(x):\n        return x + k\n    return f\nf = h(2)"),
        hashed("class A:\n    def go(self):\n        return 1\ndef f(x):\n    return A().go()"),
        hashed("class A:\n    def go(self):\n        return 2\ndef f(x):\n    return A().go()"),
        code_hash(vtc.reduce),
        code_hash(vtc.prune),
    ]
    assert len(set(different)) == len(different)
    scope = {"__name__": "notebook"}
    exec("def f(x):\n    return x", scope)
    with pytest.raises(vtc.VTCError, match="^the source of f is not to be found .* leave out results$"):
        code_hash(scope["f"])


@pytest.mark.slow
def test_failures_that_may_be_gone_are_tried_again(model, made, tmp_path):
    path, clip = tmp_path / "results.db", tmp_path / "clip.mp4"
    calm, strictly = str(tmp_path / "calm"), str(tmp_path / "strictly")

    @vtc.method(name="moody")
    def moody(tokens, budget):
        if not os.path.exists(calm):
            raise OSError("busy")
        return vtc.prune(tokens, torch.arange(budget))

    @vtc.method(name="strict")
    def strict(tokens, budget):
        with open(strictly, "a") as file:
            file.write("called ")
        raise vtc.VTCError("never")

    samples = [made[0], vtc.read_samples()[0] | {"clip": clip}]
    table = vtc.sweep(model, samples, ["moody", "strict"], [4], results=path)
    assert table.error.str.split(" ").str[0].tolist() == ["OSError:", "never", "there", "there"]
    assert set(read_results(path).error) == set(table.error)
    Path(calm).touch()
    shutil.copy(vtc.read_samples()[0]["clip"], clip)
    table = vtc.sweep(model, samples, ["moody", "strict"], [4], results=path)
    assert table.status.tolist() == ["ok", "error"] * 2
    assert Path(strictly).read_text().split() == ["called"] * 2  # once for each clip
    assert summary(read_results(path))[0].loc["all"].tolist() == [2, 0, 2, 0]


@pytest.mark.slow
def test_a_full_disk_loses_nothing(model, made, tmp_path):
    """The system refuses to let the file grow, in a process that may write some kilobytes only."""
    path = tmp_path / "results.db"
    expected = vtc.sweep(model, made, ["lftr", "random"], [2, 4])

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, resource.RLIM_INFINITY))
        table = vtc.sweep(model, made, ["lftr", "random"], [2, 4], results=path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return table

    table = in_child(limited)
    full = table.error != ""
    assert 0 < full.sum() <= len(table) and (table.status == "ok").all()
    assert table.error[full].str.match(rf"^{UNSAVED}.*results.db \([^\n]+\); make room there").all()
    assert summary(table)[0].loc["all", "unsaved"] == full.sum() and "could not be saved" in summary(table)[1]
    pd.testing.assert_frame_equal(timeless(table.assign(error="")), timeless(expected))
    again = vtc.sweep(model, made, ["lftr", "random"], [2, 4], results=path)
    pd.testing.assert_frame_equal(timeless(again), timeless(expected))
    assert set(times_computed(path)) == {1}


@pytest.mark.slow
def test_a_read_only_file_is_read_and_the_rest_is_in_memory(model, made):
    folder = Path(tempfile.mkdtemp())  # tmp_path is closed to other users
    path = folder / "results.db"
    first = vtc.sweep(model, made, ["lftr"], [2, 4], results=path)
    path.chmod(0o444)
    folder.chmod(0o555)

    def as_another_user():
        if os.geteuid() == 0:  # who may write whatever the permissions say
            os.setuid(65534)
        return vtc.sweep(model, made, ["lftr", "random"], [2, 4], results=path), read_results(path)

    try:
        table, stored = in_child(as_another_user)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    old = table.method == "lftr"
    pd.testing.assert_frame_equal(table[old].reset_index(drop=True), first)
    assert table.error[~old].str.startswith(UNSAVED).all() and table.right[~old].notna().all()
    assert len(stored) == len(first)


def test_files_that_hold_no_results_are_sentences(model, made, tmp_path):
    text, other, folder = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "folder"
    text.write_text("not a database, and long enough to be taken for the header of one\n" * 20)
    folder.mkdir()
    with closing(sqlite3.connect(other)) as connection:
        connection.execute(f"CREATE TABLE {TABLE} (name TEXT)")
    for path, words in (
        (text, "not a database"),
        (other, "another version"),
        (folder, "folder"),
        (tmp_path / "no" / "a", "no/a"),
    ):
        for call in (
            lambda path=path: vtc.sweep(model, made, ["lftr"], [2], results=path),
            lambda path=path: read_results(path),
        ):
            with pytest.raises(vtc.VTCError, match="^[^\n]+$") as error:
                call()
            assert words in str(error.value) or "there is no file" in str(error.value)
    assert text.read_text().startswith("not a database") and os.listdir(folder) == []


def foreign(path, journal):
    """Another program's database, which may have a table called results as well."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("CREATE TABLE results (run, score)")
        connection.execute("INSERT INTO results VALUES (1, 2)")


REFUSED = {
    "a byte": lambda path: path.write_bytes(b"x"),
    "two bytes": lambda path: path.write_bytes(b"xy"),
    "text": lambda path: path.write_text("not a database, and long enough to be taken for the header of one\n" * 20),
    "a database": lambda path: foreign(path, "DELETE"),
    "a database in WAL mode": lambda path: foreign(path, "WAL"),
    "without tables": lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 7").connection.close(),
    "a header alone": lambda path: path.write_bytes(b"SQLite format 3\0"),
}


@pytest.mark.parametrize("write", REFUSED.values(), ids=REFUSED)
def test_a_refused_file_is_left_byte_for_byte(model, made, tmp_path, write):
    path = tmp_path / "other.db"
    write(path)
    before = path.read_bytes()
    assert before
    for call in (vtc.sweep, look_up):
        with pytest.raises(vtc.VTCError, match=r"other.db cannot hold the results of a sweep \([^\n]+\); give another"):
            call(model, made[:1], ["lftr"], [2], results=path)
    with pytest.raises(vtc.VTCError, match=r"other.db cannot be read \([^\n]+\); give what a sweep had as results"):
        read_results(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", ["kept = 'many'", "kept = 1e400", "right = 'yes'", "seed = 1.5", "said = x'ff'"])
def test_values_that_no_sweep_has_written_are_a_sentence(model, made, tmp_path, change):
    path = tmp_path / "results.db"
    vtc.sweep(model, made[:1], ["uniform"], [4], results=path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE {TABLE} SET {change}")
    for read in (lambda: read_results(path), lambda: vtc.sweep(model, made[:1], ["uniform"], [4], results=path)):
        try:
            assert read().said[0]  # bytes can be a text
        except vtc.VTCError as error:
            assert "holds values that no sweep has written" in str(error)


def test_pipes_and_devices_are_refused(model, made, tmp_path):
    """As results, questions, or one of a folder's pictures; each would be waited for."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    for place in (tmp_path / "pipe.jsonl", "/dev/zero"):
        with pytest.raises(
            vtc.VTCError, match="cannot hold the results of a sweep .it is a folder, a pipe or a device"
        ):
            vtc.sweep(model, made[:1], ["lftr"], [2], results=place)
        with pytest.raises(vtc.VTCError, match="cannot be read .it is a folder, a pipe or a device"):
            read_results(place)
        with pytest.raises(vtc.VTCError, match="is a pipe or a device"):
            vtc.read_samples(place)
    with pytest.raises(vtc.VTCError, match="pipe.jsonl is a pipe or a device; give a file"):
        next(records(tmp_path / "pipe.jsonl"))
    with pytest.raises(vtc.VTCError, match="pipe.jsonl is a pipe or a device; give a file"):
        read_object(tmp_path / "pipe.jsonl")
    (tmp_path / "pictures").mkdir()
    for name in ("00001.png", "00002.png"):
        Image.fromarray(made[0]["clip"].frames[0]).save(tmp_path / "pictures" / name)
    os.mkfifo(tmp_path / "pictures" / "00003.png")
    asked = made[0] | {"clip": str(tmp_path / "pictures"), "picture_rate": 1.0}
    table = vtc.sweep(model, [asked], ["lftr"], [2], results=tmp_path / "results.db")
    assert table.status[0] == "error" and "00003.png is a pipe or a device" in table.error[0]


def emptied(path):
    os.truncate(path, 0)


def halved(path):
    os.truncate(path, path.stat().st_size // 2)


def replaced(path):
    foreign(path.with_name("new"), "DELETE")
    os.replace(path.with_name("new"), path)


def overwritten(path):
    foreign(path.with_name("new"), "DELETE")
    shutil.copyfile(path.with_name("new"), path)


def put_back(path):
    """A copy from before the sweep."""
    os.unlink(path)
    Store(path)


@pytest.mark.slow
@pytest.mark.parametrize("change", [os.unlink, emptied, halved, replaced, overwritten, put_back])
@pytest.mark.parametrize("when", [1, 4], ids=["while it runs", "after the last one"])
def test_a_file_that_is_changed_while_a_sweep_runs_is_noticed(model, made, tmp_path, change, when):
    path, few, after = tmp_path / "results.db", [made[0], made[-1]], []

    def progress(state):
        if state.done >= when and not after:
            change(path)
            after.append(path.read_bytes() if path.exists() else None)

    table = vtc.sweep(model, few, ["uniform", "lftr"], [2], results=path, progress=progress)
    assert (table.status == "ok").all() and table.kl.notna().all() and len(after) == 1
    unsaved = table.error != ""
    assert table.error[unsaved].str.match(rf"^{UNSAVED}.*results.db \([^\n]+\); make room there").all()
    if change is not put_back:
        assert unsaved.all() and summary(table)[0].loc["all", "unsaved"] == len(table)
        assert (path.read_bytes() if path.exists() else None) == after[0]  # nothing is written into what is there now
    else:  # a file like that one takes what comes after
        assert len(read_results(path)) == (~unsaved).sum() < len(table)
        assert table.error[unsaved].str.contains("it was removed, cut or replaced meanwhile").all()
        again = vtc.sweep(model, few, ["uniform", "lftr"], [2], results=path)
        assert (again.error == "").all() and len(read_results(path)) == len(again)


def test_no_samples_are_no_rows_and_no_complaint(model, tmp_path):
    assert len(vtc.sweep(model, [], ["lftr"], [2], results=tmp_path / "results.db")) == 0
    assert len(read_results(tmp_path / "results.db")) == 0


def test_a_question_under_two_ids_is_two_rows(model, made, calls, tmp_path):
    """Computed once; and also where the file has it from a sweep that knew one of the ids."""
    path, asked = tmp_path / "results.db", [made[0] | {"id": name} for name in ("q1", "q2", "q3")]
    table = vtc.sweep(model, asked[:2], ["counted"], [2, 4], results=path)
    assert table.id.tolist() == ["q1"] * 2 + ["q2"] * 2 and len(calls()) == 2
    stored = read_results(path)
    assert sorted(zip(stored.id, stored.ratio, strict=True)) == [("q1", 2), ("q1", 4), ("q2", 2), ("q2", 4)]
    again = vtc.sweep(model, asked, ["counted"], [2, 4], results=path)
    assert again.id.tolist() == ["q1"] * 2 + ["q2"] * 2 + ["q3"] * 2 and len(calls()) == 2
    assert sorted(read_results(path).id) == again.id.tolist()
    expected = again.sort_values(["ratio", "id"], ignore_index=True)
    pd.testing.assert_frame_equal(read_results(path).sort_values(["ratio", "id"], ignore_index=True), expected)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, which only root can mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_full_disk_is_called_a_full_disk_and_no_empty_file_is_left(model, made, small_disk):
    (small_disk / "other").write_bytes(bytes(1 << 16))
    with pytest.raises(vtc.VTCError, match=r"cannot hold the results of a sweep \(database or disk is full\)"):
        vtc.sweep(model, made[:1], ["lftr"], [2], results=small_disk / "results.db")
    assert os.listdir(small_disk) == ["other"]
    (small_disk / "other").write_bytes(bytes(3 << 14))
    table = vtc.sweep(model, made, ["lftr"], [2], results=small_disk / "results.db")
    assert (table.status == "ok").all() and table.error.str.contains(r"results.db \(database or disk is full\)").any()
    (small_disk / "other").unlink()
    again = vtc.sweep(model, made, ["lftr"], [2], results=small_disk / "results.db")
    pd.testing.assert_frame_equal(timeless(again), timeless(table.assign(error="")))


def test_a_file_of_an_older_version_is_used_on_and_nothing_taken_from_it(model, made, tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE results (key TEXT PRIMARY KEY, place TEXT, said)")
        connection.execute("INSERT INTO results VALUES ('a', 'b', 'c')")
    with pytest.raises(vtc.VTCError, match="another version"):
        read_results(path)
    table = vtc.sweep(model, made[:1], ["lftr"], [2], results=path)
    assert (table.error == "").all() and len(read_results(path)) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM results").fetchall() == [("a", "b", "c")]


@pytest.mark.slow
def test_a_held_file_is_waited_for_and_then_done_without(model, made, tmp_path, monkeypatch):
    monkeypatch.setattr("vtc_lab.sweeps.store._PATIENCE", 0.2)
    path = tmp_path / "results.db"
    Store(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")

        def progress(state):
            if state.done == state.total - 1:
                holder.execute("ROLLBACK")  # what was waiting is written with the last one

        table = vtc.sweep(model, made, ["lftr"], [2, 4], results=path, progress=progress)
    assert (table.error == "").all() and len(read_results(path)) == len(table)


@pytest.mark.slow
def test_killed_at_random_and_two_at_once_it_is_the_same_table(monkeypatch, capsys):
    """The long form is `python benchmarks/sweep_kills.py`."""
    short = [sample for sample in vtc.read_samples() if sample["frames"] == 8]
    monkeypatch.setattr(vtc, "read_samples", lambda: short)
    monkeypatch.setattr(sys, "argv", ["sweep_kills", "--kills", "5", "--clips", "3", "--together"])
    runpy.run_path(str(ROOT / "benchmarks" / "sweep_kills.py"))["main"]()
    said = capsys.readouterr().out
    assert said.count("killed ") == 5 and said.endswith("the same tables\n")
