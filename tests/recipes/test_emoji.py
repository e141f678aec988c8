"""The emoji recipe on a few discs: captions, hold-outs, pools, both trainings at small scale, export, measures."""

import dataclasses
import functools
import json
import operator
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes.emoji import evaluate, export, pool, run, settings, train_autoencoder, train_transformer
from recipes.emoji.captions import (
    CAPTION_WORDS,
    HUES,
    Composer,
    Scene,
    Thing,
    colour_held_out,
    from_hsv,
    hue_distance,
    main_hue,
    recolour,
    share,
    style_held_out,
    to_hsv,
)
from recipes.emoji.notice import NOTICE
from recipes.emoji.pool import PoolMaker, PoolRows, concepts_in_pool, held_out_rows
from recipes.emoji.render import Concept, code_of, load_pictures, plain
from recipes.emoji.settings import PRESETS, STYLES
from safetensors.torch import save_file

from calotype import TextToImagePipeline


def disc(colour, side=16):
    """An opaque disc of one colour on a transparent canvas, uint8 RGBA."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    picture = np.zeros((side, side, 4), np.uint8)
    picture[np.hypot(x, y) < side / 3] = (*colour, 255)
    return picture


@pytest.fixture
def composer():
    names = [f"thing {chr(97 + i)}" for i in range(20)]
    pictures = np.stack([np.stack([disc((200, 30, 30))] * len(STYLES)) for _ in names])
    return Composer([Concept(name, "0", "test", STYLES) for name in names], pictures)


def test_hold_outs_depend_on_words_alone():
    assert share("a", "b") == share("a", "b")
    assert share("a", "b") != share("a", "c")
    names = [f"name {i}" for i in range(2000)]
    assert 0.03 < np.mean([style_held_out(name, "noto") for name in names]) < 0.07
    assert 0.10 < np.mean([colour_held_out("red", name) for name in names]) < 0.15
    assert all(style_held_out(name, "3d") == style_held_out(name, "flat") for name in names)


def test_scenes_never_use_what_is_held_out(composer):
    rng = np.random.default_rng(0)
    for _ in range(2000):
        for thing in composer.scene(rng).things:
            name = composer.concepts[thing.concept].name
            assert not style_held_out(name, STYLES[thing.style])
            assert thing.colour is None or not colour_held_out(thing.colour, name)


def test_scenes_keep_to_the_concepts_asked_for(composer):
    rng = np.random.default_rng(0)
    assert {thing.concept for _ in range(200) for thing in composer.scene(rng, [3, 5]).things} == {3, 5}


def test_captions_say_what_is_drawn(composer):
    rng = np.random.default_rng(0)
    thing = Thing(0, 3, "blue", recoloured=True)
    text = composer.caption(Scene((thing,), background="green", small=True, styled=True), rng)
    assert all(word in text.split() for word in ("small", "blue", "thing", "green", "background", "flat"))
    two = composer.caption(Scene((thing, Thing(1, 3)), layout="above"), rng)
    assert "thing a" in two
    assert "thing b" in two
    assert "above" in two or "on top of" in two


def test_backgrounds_fill_and_small_things_shrink(composer):
    plain_picture = composer.draw(Scene((Thing(0, 0),)))
    blue = composer.draw(Scene((Thing(0, 0),), background="blue"))
    small = composer.draw(Scene((Thing(0, 0),), small=True))
    assert (plain_picture[0, 0] == 255).all()
    assert blue[0, 0].argmax() == 2
    covered = [(picture != 255).any(-1).sum() for picture in (plain_picture, small)]
    assert covered[1] < 0.4 * covered[0]


def test_black_and_white_has_no_colour(composer):
    picture = composer.draw(Scene((Thing(0, 0),), grey=True))
    assert (picture == picture[..., :1]).all()


def test_hue_saturation_and_value_go_both_ways():
    rgb = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    np.testing.assert_allclose(from_hsv(*to_hsv(rgb)), rgb, atol=1e-5)


@pytest.mark.parametrize("colour", HUES)
@pytest.mark.parametrize("original", [(200, 30, 30), (240, 240, 240), (90, 60, 20), (40, 160, 220)])
def test_recolouring_gives_the_colour_that_it_says(colour, original):
    rgba = recolour(disc(original).astype(np.float32) / 255, colour)
    hue, part = main_hue(rgba[..., :3], rgba[..., 3])
    assert hue_distance(hue, HUES[colour]) < 15
    assert part > 0.5


def test_the_first_pools_hold_fewer_concepts():
    assert [concepts_in_pool(index, 273) for index in range(4)] == [69, 137, 273, 273]


def test_code_points_are_compared_without_variation_selectors():
    assert code_of("❤️") == plain("2764-FE0F") == plain("2764") == "2764"
    assert plain("0023-fe0f-20e3") == "23-20e3"


def test_chance_is_that_of_drawing_blindly():
    concept = np.array([0, 0, 0, 1, 2])
    gallery = evaluate.Gallery(np.zeros(0, np.uint8), concept, concept, torch.zeros(0))
    assert evaluate.chance(gallery, 1) == pytest.approx((3 / 5 + 1 / 5 + 1 / 5) / 3)
    assert evaluate.chance(gallery, 2) == pytest.approx((9 / 10 + 2 / 5 + 2 / 5) / 3)


def test_colour_is_asked_of_what_is_drawn(composer):
    picture = composer.draw(Scene((Thing(0, 0, "blue", recoloured=True),)))
    assert evaluate.colour_is(picture, "blue")
    assert not evaluate.colour_is(picture, "red")
    assert not evaluate.colour_is(np.full_like(picture, 255), "red")


def test_the_distance_to_itself_is_zero():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    assert evaluate.nearest_distance(pictures, pictures) == 0
    assert evaluate.nearest_distance(255 - pictures[:1] // 2, pictures) > 0


def test_the_notice_names_every_set_and_licence():
    for word in ("Noto Emoji", "Fluent Emoji", "Twemoji", "emojibase", "MiniLM", "Apache", "MIT", "CC BY 4.0"):
        assert word in NOTICE


@pytest.fixture
def preset(tmp_path, monkeypatch):
    """A preset of 8 pictures a pool, of 16 pixels, whose pictures are discs; its autoencoder is untrained."""
    monkeypatch.setattr(settings, "WORK", tmp_path)
    monkeypatch.setattr(pool, "CHUNK", 4)
    small = dataclasses.replace(
        PRESETS["cpu"], size=16, pool=8, batch=4, width=12, depth=1, heads=2, autoencoder_width=4, transformer_steps=4
    )
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]
    concepts = [Concept(f"thing {chr(97 + n)}", "0", "test", STYLES) for n in range(len(colours))]
    small.folder.mkdir(parents=True)
    np.save(small.folder / "pictures.npy", np.stack([np.stack([disc(c)] * len(STYLES)) for c in colours]))
    (small.folder / "concepts.json").write_text(json.dumps([dataclasses.asdict(c) for c in concepts]))
    words = list(dict.fromkeys([*CAPTION_WORDS, *(w for c in concepts for w in c.name.split())]))
    (small.folder / "words.json").write_text(json.dumps(words))
    vectors = torch.randn(len(words), 8, generator=torch.Generator().manual_seed(0))
    save_file({"vectors": vectors}, small.folder / "words.safetensors")
    vae = train_autoencoder.build(small)
    vae.save_pretrained(small.folder / "vae")
    return small


def test_a_pool_follows_from_its_number(composer, monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 8)
    (pictures, texts), (again, texts_again), (other, _) = (pool.ChunkMaker(composer, n)(2) for n in (3, 3, 4))
    assert pictures.shape == (8, 16, 16, 3)
    np.testing.assert_array_equal(pictures, again)
    assert texts == texts_again
    assert (pictures != other).any()


def test_every_pass_goes_through_the_pool_once_in_an_order_of_its_own(preset):
    rows = PoolRows(PoolMaker(preset, preset.folder / "vae", preset.folder / "pools", "cpu"), first=2, ahead=False)
    names = [rows[number].name for number in range(8 * preset.passes + 1)]
    passes = [names[at : at + 8] for at in range(0, 8 * preset.passes, 8)]
    assert all(sorted(one) == [f"pool 2, picture {n}" for n in range(8)] for one in passes)
    assert len(set(map(tuple, passes))) == preset.passes
    assert names[-1].startswith("pool 3, ")
    assert [path.name for path in (preset.folder / "pools").iterdir()] == ["pool-3.safetensors"]


def test_a_row_is_the_same_whichever_came_before(preset):
    maker = PoolMaker(preset, preset.folder / "vae", preset.folder / "pools", "cpu")
    one, other = PoolRows(maker, ahead=False), PoolRows(maker, ahead=False)
    one[0], one[9]
    for rows in (one, other):
        rows[20]
    assert one[20].inputs == other[20].inputs
    assert torch.equal(one[20].given["image_latents"], other[20].given["image_latents"])
    assert one[20].given["image_latents"].shape == (1, 16, 2, 2)
    assert one.known_by == other.known_by != PoolRows(maker, first=1).known_by


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # how bf16 is slow on a CPU
def test_both_networks_learn_and_a_run_that_was_stopped_ends_the_same(preset, tmp_path):
    """The whole stage at small scale: trained, gone on with, exported and loaded."""
    found = []
    for name, ends in (("whole", (4,)), ("parts", (2, 4))):
        for steps in ends:
            pipe = train_transformer.fresh(preset)
            before = pipe.text_encoder.word_embedding.weight.detach().clone()
            maker = PoolMaker(preset, preset.folder / "vae", preset.folder / "pools", "cpu")
            rows, held_out = PoolRows(maker, ahead=False), held_out_rows(maker, 3)
            trainer = train_transformer.trainer_of(
                preset, pipe, rows, tmp_path / name, steps=steps, held_out=held_out, checkpoint_every=1,
                validation={"every": 2}, rate={"curve": "constant"}, average=0.5,
            )  # fmt: skip
            trainer.train(resume=True, progress=False)
        found.append({**pipe.text_encoder.state_dict(), **pipe.transformer.state_dict()})
        moved = (pipe.text_encoder.word_embedding.weight != before).any(1)
        assert 0 < moved.sum() < len(before) - 1  # words of captions, and no other
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # how bf16 is slow on a CPU
def test_the_stage_ends_in_a_repository_that_is_exported(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(train_transformer, "PoolRows", functools.partial(PoolRows, ahead=False))
    train_transformer.main(preset, "cpu", "scratch", steps=2, compiled=False)
    target = export.main(preset, "scratch", tmp_path / "exported")
    learned = TextToImagePipeline.from_pretrained(train_transformer.run_folder(preset, "scratch") / "result")
    shipped = TextToImagePipeline.from_pretrained(target)
    for name in ("text_encoder", "transformer", "vae"):
        for key, value in learned.components[name].state_dict().items():
            assert torch.equal(shipped.components[name].state_dict()[key], value.half().float())
    assert shipped(prompt="a red thing a", steps=1, height=16, width=16, seed=0).image.size == (16, 16)
    assert (target / "NOTICE").read_text() == NOTICE


def test_what_has_not_ended_is_not_exported(preset, tmp_path):
    with pytest.raises(FileNotFoundError, match="the transformer stage has not ended yet"):
        export.main(preset, "scratch", tmp_path / "exported")


def test_an_autoencoder_learns_to_give_pictures_back(preset, tmp_path):
    """Better after a few steps than before them, and with latents of unit deviation."""
    pictures = train_autoencoder.compose_pool(Composer(*load_pictures(preset.folder)), 16, seed=1)
    vae = train_autoencoder.build(preset)
    held = train_autoencoder.to_tensor(pictures)
    before = train_autoencoder.psnr(vae, held)
    trainer = train_autoencoder.trainer_of(
        vae, train_autoencoder.ComposedPictures(pictures), [], tmp_path / "run", steps=40, average=0.5
    )
    result = trainer.train(progress=False)
    learned = train_autoencoder.MiniAutoencoderKL.from_pretrained(result.files[0])
    facts = train_autoencoder.finish(tmp_path / "vae", learned, held, held)
    assert facts["psnr_db"] > before + 3
    scaled = train_autoencoder.MiniAutoencoderKL.from_pretrained(tmp_path / "vae")
    with torch.no_grad():
        torch.testing.assert_close(scaled.encode(held).std((0, 2, 3)), torch.ones(16), rtol=1e-4, atol=1e-4)


def test_a_stage_runs_in_a_process_of_its_own_and_its_failure_ends_the_recipe():
    run.apart(operator.truediv, 1, 1)
    with pytest.raises(SystemExit) as ended:
        run.apart(operator.truediv, 1, 0)
    assert ended.value.code == 1


KILLED = """
import multiprocessing, os, sys, time
from pathlib import Path
from recipes.emoji.pool import PoolMaker
from recipes.emoji.run import apart

class Slow(PoolMaker):
    def make(self, index):
        (self.folder / "pool").write_text(str(os.getpid()))
        time.sleep(120)

def stage(folder):
    maker = Slow(None, None, folder, "cpu")
    multiprocessing.get_context("spawn").Process(target=maker.make_aside, args=(1,)).start()
    (folder / "stage").write_text(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    apart(stage, Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_recipe_that_is_killed_takes_its_stage_and_the_next_pool_with_it(tmp_path):
    script, root = tmp_path / "killed.py", Path(run.__file__).parents[2]
    script.write_text(KILLED)
    recipe = subprocess.Popen([sys.executable, script, tmp_path], env={**os.environ, "PYTHONPATH": str(root)})
    until, found = time.monotonic() + 120, []
    for name in ("stage", "pool"):
        while not (tmp_path / name).exists() or not (tmp_path / name).read_text():
            assert time.monotonic() < until and recipe.poll() is None
            time.sleep(0.02)
        found.append(int((tmp_path / name).read_text()))
    recipe.kill()
    assert recipe.wait(30) == -signal.SIGKILL
    for other in found:
        while Path(f"/proc/{other}").exists() and "\nState:\tZ" not in Path(f"/proc/{other}/status").read_text():
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_stage_that_there_is_not_is_named(capsys):
    with pytest.raises(SystemExit):
        run.main(["render", "trains"])
    assert "'trains' is not a stage; they are fetch, render, words," in capsys.readouterr().err


def test_a_run_from_the_shipped_model_has_pools_and_a_folder_of_its_own():
    preset = PRESETS["cpu"]
    assert train_transformer.run_folder(preset, "shipped") != train_transformer.run_folder(preset, "scratch")
    assert (train_transformer.vae_folder(preset, "shipped") / "config.json").is_file()
    assert concepts_in_pool(train_transformer.FURTHER_POOL, 273) == 273


def test_muon_moves_the_matrices_of_blocks_and_nothing_else(preset):
    pipe = train_transformer.fresh(preset)
    module = torch.nn.ModuleDict({"text_encoder": pipe.text_encoder, "transformer": pipe.transformer})
    names = [n for n, p in module.named_parameters() if p.ndim == 2 and re.search(train_transformer.MATRICES, n)]
    parts = {name.split(".", 3)[-1] for name in names}
    assert {name.split(".")[0] for name in names} == {"text_encoder", "transformer"}
    assert parts == {f"{part}.weight" for part in ("to_qkv", "text_kv", "to_out", "gate_up", "down")}
