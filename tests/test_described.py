"""Models are declared without pydantic, and are pydantic's once they are used."""

import abc
import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import pydantic
import pytest

from calotype.described import (
    AliasChoices,
    BeforeValidator,
    Described,
    Field,
    PositiveInt,
    described_fields,
    model_validator,
)


class Lens(Described):
    """A lens."""

    maker: ClassVar[str] = "Talbot"
    focal_length: PositiveInt
    blades: Annotated[int, BeforeValidator(int)] = Field(7, ge=3, description="How many blades.")
    coats: tuple[PositiveInt, ...] = ()

    @property
    def twice(self) -> int:
        return 2 * self.focal_length

    @model_validator(mode="after")
    def _fits(self) -> "Lens":
        if self.blades > self.focal_length:
            raise ValueError("too many blades")
        return self


class Zoom(Lens):
    longest: int = Field(default=200, validation_alias=AliasChoices("longest", "max"))
    blades: int = 9

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)


def test_declaring_and_reading_fields_does_not_import_pydantic():
    code = """
import sys
from calotype.described import Described, Field, PositiveInt, described_fields, model_validator
class Lens(Described):
    focal_length: PositiveInt = Field(50, description="In millimetres.")
    @model_validator(mode="after")
    def fits(self): return self
assert described_fields(Lens)["focal_length"].default == 50
assert "pydantic" not in sys.modules
Lens()
assert "pydantic" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_declared_is_what_pydantic_finds():
    for model in (Lens, Zoom):
        ours, theirs = described_fields(model), model.model_fields
        assert list(ours) == list(theirs)
        for name, field in ours.items():
            assert field.required == theirs[name].is_required()
            assert field.required or field.default == theirs[name].default
            assert field.description == (theirs[name].description or "")


def test_objects_are_validated():
    lens = Lens(focal_length=50, blades="5")
    assert (lens.blades, lens.twice, Lens.maker) == (5, 100, "Talbot")
    assert isinstance(lens, Lens) and isinstance(lens, pydantic.BaseModel) and not isinstance(lens, Zoom)
    for wrong in ({"focal_length": 0}, {"focal_length": 50, "blades": 2}, {"focal_length": 5}, {},
                  {"focal_length": 50, "coats": (0,)}):  # fmt: skip
        with pytest.raises(pydantic.ValidationError):
            Lens(**wrong)


def test_a_derived_model():
    zoom = Zoom(focal_length=50, max=300)
    assert (zoom.longest, zoom.blades) == (300, 9)
    assert isinstance(zoom, Lens) and issubclass(type(zoom), Lens) and issubclass(Zoom, Lens)
    assert not issubclass(Lens, Zoom) and not isinstance(3, Lens)


def test_objects_are_copied_and_pickled():
    zoom = Zoom(focal_length=50)
    assert copy.deepcopy(zoom) == zoom == pickle.loads(pickle.dumps(zoom))


class Odd(type(Zoom(focal_length=50))):  # type: ignore[misc]
    """Derived from a model that was built, and not from its declaration."""


class Parcel(Described):
    """A model that says itself how it is pickled."""

    content: int

    def __reduce__(self) -> Any:
        return Parcel, (), {"__dict__": {"content": -1}}

    def __init__(self, content: int = 0) -> None:
        super().__init__(content=content)

    def __setstate__(self, state: Any) -> None:
        self.content = state["__dict__"]["content"]


def test_pickling_keeps_the_class_and_its_own_way():
    odd = Odd(focal_length=50)
    assert type(pickle.loads(pickle.dumps(odd))) is Odd
    assert pickle.loads(pickle.dumps(Parcel(3))).content == -1


def test_generic_models_check_what_they_are_given():
    T = TypeVar("T")

    class Box(Described, Generic[T]):
        content: T

    class Numbers(Box[list[int]]):
        pass

    assert Box[int](content="3").content == 3 and Numbers(content=["4"]).content == [4]
    assert isinstance(Box[int](content=3), Box)
    with pytest.raises(pydantic.ValidationError):
        Box[int](content="three")
    with pytest.raises(TypeError, match="cannot be parametrized"):
        Lens[int]


def test_abstract_models_are_not_made():
    class Shutter(Described, abc.ABC):
        speed: int = 1

        @abc.abstractmethod
        def open(self) -> None: ...

    class Leaf(Shutter):
        def open(self) -> None: ...

    assert isinstance(Leaf(), Shutter)
    with pytest.raises(TypeError, match="abstract"):
        Shutter()


def test_what_is_set_on_a_class_is_not_lost_in_silence():
    for name in ("twice", "blades", "hood"):
        with pytest.raises(AttributeError, match=f"'{name}' of Lens cannot be set.*derived"):
            setattr(Lens, name, 5)


def test_the_names_of_a_class_are_listed():
    assert {"focal_length", "twice", "longest", "maker"} <= set(dir(Zoom)) and "_body" not in dir(Zoom)


def test_threads_that_make_the_first_objects_get_one_class():
    class Base(Described):
        size: int = 1

    derived = [type(f"Part{k}", (Base,), {"__annotations__": {"k": int}, "k": k}) for k in range(8)]
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda k: derived[k % 8](), range(64)))
    assert len({type(part) for part in made}) == 8
    assert [part.k for part in made] == [k % 8 for k in range(64)] and all(isinstance(part, Base) for part in made)


def test_pydantics_own_words_and_functions_work():
    class Camera(Described):
        lens: Lens
        speed: int = pydantic.Field(1, description="How fast.")

        @pydantic.field_validator("speed")
        @classmethod
        def _odd(cls, value: int) -> int:
            if value % 2 == 0:
                raise ValueError("odd speeds only")
            return value

    assert described_fields(Camera)["speed"].description == "How fast."
    assert Camera(lens={"focal_length": 50}).lens.focal_length == 50
    with pytest.raises(pydantic.ValidationError, match="odd speeds"):
        Camera(lens={"focal_length": 50}, speed=2)
    wider = pydantic.create_model("Wider", __base__=Lens, hood=(bool, True))
    assert wider(focal_length=50).hood and isinstance(wider(focal_length=50), Lens)
    assert "focal_length" in pydantic.TypeAdapter(Camera).json_schema()["$defs"]["Lens"]["properties"]


def test_types_written_as_text_are_found_where_they_are_declared():
    class Local(int):
        pass

    class Holder(Described):
        model_config: ClassVar[dict[str, bool]] = {"arbitrary_types_allowed": True}
        value: "Local | None" = None

    assert described_fields(Holder)["value"].annotation == Local | None
    assert Holder(value=Local(3)).value == 3


def test_fields_of_a_base_that_is_not_described_are_found():
    class Sized:
        size: int = 3

    class Bag(Sized, Described):
        content: str = ""

    assert list(described_fields(Bag)) == list(Bag.model_fields) == ["size", "content"]


def test_a_default_without_a_type_is_refused():
    with pytest.raises(TypeError, match="blades needs a type"):
        type("Wrong", (Lens,), {"blades": 5})
    with pytest.raises(TypeError, match="grip needs a type: write grip: str = "):
        type("Wrong", (Lens,), {"grip": "left"})
    with pytest.raises(TypeError, match="hood needs a type"):

        class Wrong(Described):
            hood = Field(default=3)


def test_there_is_no_other_attribute():
    assert not hasattr(Lens, "array_type") and not hasattr(Lens, "focal_lenght")
    with pytest.raises(AttributeError, match="'Lens' has no attribute 'zoom'"):
        _ = Lens.zoom
