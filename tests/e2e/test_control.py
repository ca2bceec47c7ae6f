"""What is known of a picture, several answers in one, and pictures larger than the tokenizers take."""

import json

import numpy as np
import pytest
from PIL import Image

from mmtok.inference import Job, Part, Stage, load_anytoany


@pytest.fixture(scope="module")
def model(tiny):
    return load_anytoany(tiny.model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture as large as the tokenizers take, one that is not square, and masks."""
    folder = tmp_path_factory.mktemp("control")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "small.png")
    Image.fromarray(rng.integers(0, 256, (44, 60, 3), dtype=np.uint8)).save(folder / "wide.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[:20, :44] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "black.png")
    Image.fromarray(mask[:, :40]).save(folder / "narrow.png")
    return folder


@pytest.fixture
def sample(tiny, mmtok, folder, tmp_path, monkeypatch):
    """Runs `mmtok sample` beside the pictures; returns what it wrote."""
    monkeypatch.chdir(folder)

    def run(*words: str, name: str = "out"):
        ran = mmtok("sample", "--model", tiny.model, *words, "--out", tmp_path / name)
        assert ran.code == 0, ran.err
        return tmp_path / name

    return run


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


HOT = ("--temperature", "1", "--steps", "2", "--guidance", "1")


def test_white_of_a_mask_is_painted_and_the_rest_is_as_it_was(sample, folder):
    words = ("--given", "rgb=small.png", "--mask", "rgb=mask.png", "--to", "rgb", *HOT)
    a, b = (read(sample(*words, "--seed", seed, name=seed) / "rgb.png").astype(int) for seed in "12")
    known = np.ones((32, 32), bool)
    known[:10, :22] = False
    given = read(folder / "small.png")
    np.testing.assert_array_equal(a[known], given[known])
    np.testing.assert_array_equal(b[known], given[known])
    assert (a[~known] != given[~known]).mean() > 0.5
    assert (a[~known] != b[~known]).any()


def test_a_picture_is_painted_outwards(sample, folder):
    out = sample("--given", "rgb=small.png", "--place", "rgb=0.25,0.5,0.75,1", "--to", "rgb,depth", *HOT)
    made, given = read(out / "rgb.png"), Image.open(folder / "small.png").resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(made[16:, 8:24].astype(int), np.asarray(given).astype(int), atol=60)
    assert made.shape == (32, 32, 3)
    assert json.loads((out / "manifest.json").read_text())["place"] == {"rgb": [0.25, 0.5, 0.75, 1.0]}
    gallery = read(out / "gallery.png")
    assert gallery.shape[1] > 3 * 160


def test_dry_run_counts_what_is_known(tiny, mmtok, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    words = ("sample", "--model", tiny.model, "--given", "rgb=small.png", "--to", "rgb", "--out", tmp_path / "x")
    ran = mmtok(*words, "--mask", "rgb=mask.png", "--dry-run")
    assert ran.out.splitlines()[0] == "given: pixels (10 of 16 positions), rgb (10 of 16 positions)"
    ran = mmtok(*words, "--place", "rgb=0,0,0.5,0.5", "--dry-run")
    assert ran.out.splitlines()[0] == "given: pixels (4 of 16 positions), rgb (4 of 16 positions)"


def test_each_sample_of_a_batch_has_its_own_part(model, folder):
    picture, mask = read(folder / "small.png"), np.ones((32, 32), bool)
    mask[16:] = False
    parts = [Part(picture, mask), picture, Part(picture, (0.0, 0.0, 0.5, 1.0))]
    together = model.sample([{"rgb": part} for part in parts], ["rgb", "depth"], temperature=1.0)
    for number, part in enumerate(parts):
        (alone,) = model.sample({"rgb": part}, ["rgb", "depth"], temperature=1.0, numbers=[number])
        np.testing.assert_array_equal(together[number]["rgb"], alone["rgb"])
        np.testing.assert_allclose(together[number]["depth"], alone["depth"], rtol=1e-5)
    np.testing.assert_array_equal(together[0]["rgb"][:16], picture[:16])
    np.testing.assert_array_equal(together[2]["rgb"][:, :16], picture[:, :16])
    np.testing.assert_array_equal(together.columns["pixels"].length, [0, 16, 0])


def test_masks_of_a_folder_and_of_a_table(tiny, mmtok, folder, tmp_path):
    for name in ("rgb", "rgb.mask"):
        (tmp_path / "in" / name).mkdir(parents=True)
    for name in "ab":
        (tmp_path / "in" / "rgb" / f"{name}.png").write_bytes((folder / "small.png").read_bytes())
    (tmp_path / "in" / "rgb.mask" / "b.png").write_bytes((folder / "mask.png").read_bytes())
    words = ("sample", "--model", tiny.model, "--to", "rgb", *HOT)
    ran = mmtok(*words, "--from", tmp_path / "in", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    given = read(folder / "small.png")
    np.testing.assert_array_equal(read(tmp_path / "out" / "rgb" / "b.png")[10:], given[10:])
    records = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [sorted(record["inputs"]) for record in records] == [["rgb"], ["rgb", "rgb.mask"]]
    table = tmp_path / "table.csv"
    table.write_text(f"rgb,rgb.mask\n{folder}/small.png,{folder}/narrow.png\n{folder}/small.png,{folder}/mask.png\n")
    ran = mmtok(*words, "--from", table, "--out", tmp_path / "table")
    assert "1 of 2 samples failed" in ran.error
    failed, fine = (json.loads(line) for line in (tmp_path / "table" / "samples.jsonl").read_text().splitlines())
    assert "narrow.png: a mask of 40 x 64 does not have the proportions of its picture, 32 x 32" in failed["error"]
    np.testing.assert_array_equal(read(tmp_path / "table" / fine["files"][0]["rgb"])[10:], given[10:])


WRONG = {
    "--mask rgb=black.png": "black.png: all of the mask is black, so nothing is to be painted",
    "--mask rgb=small.png": "small.png: a mask is black (known) and white (to be painted), this picture has colours",
    "--mask rgb=narrow.png": "narrow.png: a mask of 40 x 64 does not have the proportions of its picture, 32 x 32",
    "--mask depth=mask.png": "mask.png: a mask without a picture of 'depth'",
    "--mask rgb=nowhere.png": "nowhere.png: no such file",
    "--mask rgb=mask.png --keep rgb=0,0,1,0.5": "field 'rgb': keep, place and mask each say what is known of it",
    "--place rgb=0,0,1,1": "place: (0.0, 0.0, 1.0, 1.0) is the whole picture, so nothing is left to be made",
    "--place rgb=0,0,0.5": "--place rgb=0,0,0.5: four numbers left,top,right,bottom in 0..1 were expected",
    "--place depth=0,0,0.5,0.5": "place: the field 'depth' is not among the given ones",
    "--keep rgb=0.4,0.4,0.6,0.6": "keep: none of the 4 x 4 tokens of 'pixels' lies wholly in the known part",
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.items())
def test_wrong_parts(tiny, mmtok, folder, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(folder)
    given = ("--given", "rgb=small.png", "--to", "rgb", "--out", tmp_path / "out")
    assert sentence in mmtok("sample", "--model", tiny.model, *given, *words.split()).error
    assert not (tmp_path / "out").exists()


def test_answers_are_reduced(sample, model, folder):
    words = ("--given", "rgb=small.png", "--to", "depth", "--samples", "3", *HOT)
    out = sample(*words, "--reduce", "mean", "--seed", "5")
    assert {path.name for path in out.iterdir()} == {
        *("depth.npy", "depth.png", "depth_uncertainty.npy", "depth_uncertainty.png", "gallery.png", "manifest.json")
    }
    each = sample(*words, "--seed", "5", name="each")
    depths = np.stack([np.load(each / f"{number:03d}" / "depth.npy") for number in range(3)])
    found, defined = np.load(out / "depth.npy"), np.isfinite(depths).all(0)
    assert defined.any()
    np.testing.assert_allclose(found[defined], depths[:, defined].mean(0), rtol=1e-5)
    spread = np.load(out / "depth_uncertainty.npy")
    np.testing.assert_allclose(spread[defined], depths[:, defined].std(0), rtol=1e-3, atol=1e-4)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["reduce"] == "mean"
    assert manifest["files"] == [{"depth": "depth.npy", "depth_uncertainty": "depth_uncertainty.npy"}]


def test_the_most_likely_answers_are_left_and_their_probabilities_written(sample):
    words = ("--given", "rgb=small.png", "--to", "depth,caption", "--set", "caption.length=5", "--samples", "4", *HOT)
    every = sample(*words, "--probabilities", name="every")
    means = []
    for number in range(4):
        with np.load(every / f"{number:03d}" / "probabilities.npz") as arrays:
            assert arrays["depth.log_probs"].shape == arrays["depth.tokens"].shape == (4, 4, 1)
            assert len(arrays["caption.entropies"]) == len(arrays["caption.tokens"]) <= 5
            assert arrays["depth.tokens"].dtype == np.int32
            assert all((arrays[name] >= 0).all() for name in ("depth.entropies", "caption.entropies"))
            parts = [arrays[f"{name}.log_probs"].ravel() for name in ("depth", "caption")]
            assert all((part <= 0).all() for part in parts)
            means.append(np.concatenate(parts).mean())
            entropies = arrays["depth.entropies"][..., 0]
        np.testing.assert_array_equal(np.load(every / f"{number:03d}" / "depth_entropy.npy"), entropies)
    best = sample(*words, "--best", "2", name="best")
    for place, number in enumerate(np.argsort(means)[::-1][:2]):
        for file in ("depth.npy", "caption.txt"):
            assert (best / f"{place:03d}" / file).read_bytes() == (every / f"{number:03d}" / file).read_bytes()
    assert not (best / "002").exists()


def test_the_best_by_a_score_of_ones_own(model, folder):
    answers = model.sample({"rgb": read(folder / "small.png")}, "camera", draws=5, temperature=2.0)
    best = answers.best(2, score=lambda answer: answer["camera"][0])
    first = sorted((answer["camera"][0] for answer in answers), reverse=True)
    assert [answer["camera"][0] for answer in best] == first[:2]
    assert len(best.tokens["camera"].log_probs) == best.draws == len(best.given) == 2
    median = answers.reduced("median")
    np.testing.assert_allclose(median[0]["camera"], np.median([a["camera"] for a in answers], axis=0), rtol=1e-6)
    assert len(median) == 1
    assert median.picture().width > 3 * 160


def test_a_second_model_goes_on_where_the_first_ends(model, folder):
    picture = read(folder / "small.png")
    # one step each: the order of positions hangs on a target's place in its plan
    plans = model.plan(["depth"], temperature=0.0, steps=1), model.plan(["camera"], temperature=0.0, steps=1)
    samples = [{"rgb": Part(picture, (0.0, 0.0, 0.5, 1.0))}, {"rgb": picture}]
    answers = Job(stages=tuple(Stage(model, plan) for plan in plans)).run(samples)
    chained = model.sample(samples, [*plans[0], *plans[1]])
    for name in ("depth", "camera"):
        np.testing.assert_allclose(answers[1][name], chained[1][name], rtol=1e-5)
    np.testing.assert_array_equal(answers.columns["rgb"].length, [0, 16])  # a part is no whole to be handed on
    np.testing.assert_array_equal(answers.columns["depth"].length, [16, 16])
    assert answers.likelihood.count.tolist() == [16 + len(answers[0]["camera"])] * 2


def test_a_large_picture_is_sampled_in_windows(sample, model, folder):
    words = ("--given", "rgb=wide.png", "--to", "depth", "--steps", "2", "--temperature", "1", "--tiles", "0.25")
    out = sample(*words, "--batch-size", "4")
    depth = np.load(out / "depth.npy")
    assert depth.shape == (44, 60)
    again = model.sample(
        {"rgb": read(folder / "wide.png")}, "depth", tiles=0.25, steps=2, temperature=1.0, batch_size=3
    )
    np.testing.assert_allclose(again[0]["depth"], depth, rtol=1e-4)
    small = {"rgb": read(folder / "small.png")}
    (plain,), (tiled,) = (model.sample(small, "depth", tiles=tiles) for tiles in (None, 0.5))
    np.testing.assert_allclose(tiled["depth"], plain["depth"], rtol=1e-6)
    assert len(again) == 1
    assert again.likelihood.count.tolist() == [6 * 16]
    reduced = model.sample([{"rgb": read(folder / "wide.png")}] * 2, "depth", tiles=0.0, draws=2).reduced()
    assert [answer["depth_uncertainty"].shape for answer in reduced] == [(44, 60)] * 2


def test_a_folder_of_large_pictures(tiny, mmtok, folder, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("small", "wide"):
        (tmp_path / "in" / f"{name}.png").write_bytes((folder / f"{name}.png").read_bytes())
    Image.fromarray(np.zeros((31, 40, 3), np.uint8)).save(tmp_path / "in" / "tiny.png")
    words = ("--to", "depth", "--tiles", "0.5", "--samples", "2", "--reduce", "median", "--steps", "1")
    ran = mmtok("sample", "--model", tiny.model, "--from", tmp_path / "in", *words, "--out", tmp_path / "out")
    assert "1 of 3 samples failed" in ran.error
    records = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [record.get("error", "")[:42] for record in records] == [
        "",
        "tiles: the picture of 40 x 31 pixels is sm",
        "",
    ]
    assert np.load(tmp_path / "out" / "depth" / "wide.npy").shape == (44, 60)
    assert np.load(tmp_path / "out" / "depth_uncertainty" / "wide.npy").shape == (44, 60)
    ran = mmtok("sample", "--again", tmp_path / "out", "--only", "wide", "--out", tmp_path / "again")
    assert ran.code == 0, ran.err
    for name in ("depth", "depth_uncertainty"):
        file = f"{name}/wide.npy"
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


WRONG_ANSWERS = {
    "--samples 2 --reduce mean --to caption": "reduce: several answers of 'caption' (shown as text) cannot be brought",
    "--samples 2 --reduce vote --to depth": "reduce: 'depth' holds numbers, only classes are voted on; use mean",
    "--samples 2 --best 3 --to depth": "--best 3: of --samples 2 answers",
    "--samples 2 --best 1 --reduce mean --to depth": "best and reduce: answers are either chosen or brought together",
    "--samples 2 --reduce mean --probabilities --to depth": "probabilities are those of tokens, and answers brought",
    "--decoder-steps 5 --to depth": "5 decoder steps: every target is decoded in one pass; leave the number out",
    "--tiles 0.5 --probabilities --to depth": "probabilities are those of tokens, and pictures made of windows have",
    "--tiles 1 --to depth": "tiles: the overlap of two windows is a share of their side, 0 to 0.9; it is 1",
    "--tiles 0.5 --to caption": "tiles: 'caption' (shown as text) belongs to a whole picture",
    "--tiles 0.5 --to rgb --keep rgb=0,0,1,0.5": "tiles: whole pictures are cut into windows, neither tokens nor",
}


@pytest.mark.parametrize(("words", "sentence"), WRONG_ANSWERS.items())
def test_wrong_answers(tiny, mmtok, folder, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(folder)
    given = ("--given", "rgb=small.png", "--out", tmp_path / "out")
    assert sentence in mmtok("sample", "--model", tiny.model, *given, *words.split()).error
    assert not (tmp_path / "out").exists()


def test_dry_run_says_what_becomes_of_the_answers(tiny, mmtok, folder, tmp_path):
    words = ("--given", f"rgb={folder / 'wide.png'}", "--to", "depth", "--tiles", "0.25", "--samples", "3")
    ran = mmtok("sample", "--model", tiny.model, *words, "--reduce", "mean", "--dry-run", "--out", tmp_path / "x")
    lines = ran.out.splitlines()
    assert lines[0] == "in each window of the pictures, blended where two overlap, by at least 25%:"
    assert lines[-1] == "of 3 answers, the mean and how far they lie apart"
