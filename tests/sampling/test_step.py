"""The description of a step."""

from calotype.sampling import FlowMatchEuler, Step


def test_progress_is_the_share_that_is_done():
    assert Step(0, 4, 1.0, 1000.0, 0.75).progress == 0.0
    assert Step(3, 4, 0.25, 250.0, 0.0).progress == 0.75


def test_levels_describe_their_steps():
    levels = FlowMatchEuler(num_train_timesteps=4).schedule(4)
    assert levels.steps[1] == Step(1, 4, 0.75, 3.0, 0.5)
    assert levels.steps[3] == Step(3, 4, 0.25, 1.0, 0.0)
