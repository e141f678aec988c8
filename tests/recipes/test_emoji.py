"""The parts of the emoji recipe that need no pictures: captions, hold-outs, optimizer, checkpoints, measures."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from recipes.emoji import evaluate, pool
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
from recipes.emoji.checkpoint import Clock, load_checkpoint, save_checkpoint
from recipes.emoji.notice import NOTICE
from recipes.emoji.optimizer import update_average
from recipes.emoji.render import Concept, code_of, plain
from recipes.emoji.settings import PRESETS, STYLES
from recipes.emoji.train_transformer import concepts_in_pool, rate_factor, shuffled

from calotype.models.word_text_encoder import WordTokenizer
from calotype.training.muon import MuonAdamW, orthogonalize


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


def test_orthogonalizing_brings_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(2, 8, 32)).float())
    assert ((values > 0.5) & (values < 1.5)).all()


def trained(steps, model, average, optimizers, clock):
    for _ in range(steps):
        loss = (model(torch.randn(4, 6)) - 1).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        update_average(average, model, 0.9)
        clock.tick()


def setup():
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3)
    optimizers = [MuonAdamW([model.weight], lr=0.02, weight_decay=0.1), torch.optim.AdamW([model.bias], lr=0.01)]
    return model, copy.deepcopy(model), optimizers, Clock(100, 10.0)


def test_a_run_that_was_stopped_continues_exactly(tmp_path):
    model, average, optimizers, clock = setup()
    trained(3, model, average, optimizers, clock)
    save_checkpoint(tmp_path / "state.pt", {"model": model, "average": average}, optimizers, clock)
    trained(3, model, average, optimizers, clock)

    again, again_average, again_optimizers, again_clock = setup()
    loaded = {"model": again, "average": again_average}
    assert load_checkpoint(tmp_path / "state.pt", loaded, again_optimizers, again_clock, "cpu")
    assert again_clock.step == 3
    trained(3, again, again_average, again_optimizers, again_clock)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)
    torch.testing.assert_close(again_average.state_dict(), average.state_dict(), atol=0, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_there_is_nothing_to_continue_from_at_first(tmp_path):
    model, average, optimizers, clock = setup()
    assert not load_checkpoint(tmp_path / "none.pt", {"model": model, "average": average}, optimizers, clock, "cpu")


def test_progress_is_the_larger_of_steps_and_time():
    clock = Clock(steps=10, minutes=1.0)
    clock.restore({"step": 5, "elapsed": 6.0})
    assert clock.progress == pytest.approx(0.5)
    clock.restore({"step": 5, "elapsed": 45.0})
    assert clock.progress == pytest.approx(0.75, abs=0.01)
    clock.restore({"step": 50, "elapsed": 0.0})
    assert clock.progress == 1


def test_the_rate_warms_up_holds_and_ends_at_zero():
    clock = Clock(steps=10_000, minutes=1e9)
    factors = []
    for step in (0, 1000, 5000, 7500, 10_000):
        clock.step = step
        factors.append(rate_factor(clock))
    assert factors == pytest.approx([1 / 200, 1, 1, 0.5, 0])


def test_every_pass_goes_through_the_pool_once_in_an_order_of_its_own():
    preset = dataclasses.replace(PRESETS["cpu"], pool=64, batch=16)
    passes = [torch.cat([shuffled(preset, 0, turn * 4 + place) for place in range(4)]) for turn in range(2)]
    assert [sorted(order.tolist()) for order in passes] == [list(range(64))] * 2
    assert passes[0].tolist() != passes[1].tolist()


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


def test_a_pool_is_the_same_from_one_process_or_several(composer, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "CHUNK", 8)
    names = [word for concept in composer.concepts for word in concept.name.split()]
    tokenizer = WordTokenizer(list(dict.fromkeys([*CAPTION_WORDS, *names])), pool.MAX_LENGTH)
    makers = [pool.ChunkMaker(composer, tokenizer, index, 10) for index in (3, 3, 4)]
    (pictures, ids), (again, ids_again), (other, _) = (maker(2) for maker in makers)
    assert pictures.shape == (8, 16, 16, 3)
    assert ids.shape == (8, pool.MAX_LENGTH)
    np.testing.assert_array_equal(pictures, again)
    assert (ids == ids_again).all()
    assert (pictures != other).any()
