"""Groups of settings: dataclasses that check their values' types, and a class for each option of a group.

Hydra reads the same classes as schemas. Here they are checked without it, for whoever uses the library from Python.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

from partrain import checks
from partrain.errors import UserError


def field_types(settings: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass, by name."""
    hints = get_type_hints(settings)
    return {field.name: hints[field.name] for field in fields(settings)}


def field_defaults(settings: type) -> dict[str, Any]:
    """Return the default of each field of a dataclass, by name."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(settings)
    }


@dataclass(kw_only=True)
class Settings:
    """A group of settings, whose values are checked against the types of their fields."""

    group: ClassVar[str] = ""
    """The name of the group, which the names of its settings begin with."""

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():
            setattr(self, name, checks.of_type(self.full_name(name), getattr(self, name), hint))

    @classmethod
    def full_name(cls, name: str) -> str:
        """Return the name by which a field is set, such as train.lr."""
        return f"{cls.group}.{name}" if cls.group else name


@dataclass(kw_only=True)
class Option(Settings):
    """The settings of one option of a group, which differ from those of the others."""

    is_family: ClassVar[bool] = False
    """Whether the name is that of a member of the family that the option opens, instead of the option's own."""

    name: str
    """The name of the option."""

    def __post_init__(self) -> None:
        super().__post_init__()
        own_name = next(field.default for field in fields(self) if field.name == "name")
        if own_name is MISSING:
            raise UserError(
                f"{type(self).__name__} is what all options of {self.group} share; make one of them instead"
            )
        if not self.is_family and self.name != own_name:
            raise UserError(
                f"{self.group}.name={self.name} does not fit {type(self).__name__}, whose name is {own_name}; "
                f"choose another option as {self.group}={self.name}"
            )

    @classmethod
    def has_member(cls, name: str) -> bool:
        """Return whether `name` can be that of a member of the option's family. By default it is module:object."""
        return cls.is_family and ":" in name


S = TypeVar("S", bound=Option)


class Options(Generic[S]):
    """The options of a group of settings, each with a class of its own.

    Args:
        base: The class of the settings that all options have, such as `LabelSettings`.
        classes: The class of settings of each option, by the option's name.
    """

    def __init__(self, base: type[S], classes: Mapping[str, type[S]]) -> None:
        self.base, self.classes = base, dict(classes)
        self.group = base.group

    def class_named(self, name: object) -> type[S]:
        """Return the class of the option called `name`, or of the option whose family `name` is a member of.

        Raises:
            UserError: If there is no such option, or if the name is no text.
        """
        text: str = checks.of_type(self.group, name, str)
        if text not in self.classes:
            for option in self.classes.values():
                if option.has_member(text):
                    return option
        checks.one_of(self.group, text, self.classes)
        return self.classes[text]

    def name_of(self, settings: type[S]) -> str:
        """Return the name of the option with this class of settings, such as "custom" for all of a user's own."""
        return next(name for name, option in self.classes.items() if settings is option)

    def from_dict(self, values: Mapping[str, Any]) -> S:
        """Return the settings that `values` describe, among them the name of the option.

        Raises:
            UserError: If a value is not allowed, or belongs to another option.
        """
        option = self.class_named(values.get("name"))
        for name in values:
            if name not in field_types(option):
                raise UserError(self.refusal(name, option))
        return option(**values)

    def refusal(self, name: str, chosen: type[S]) -> str:
        """Return the message for the setting `name`, which the chosen option does not have."""
        full_name = f"{self.group}.{name}"
        owners = [
            f"{self.group}={option}" for option, settings in self.classes.items() if name in field_types(settings)
        ]
        if not owners:
            return checks.unknown_setting(full_name, field_types(chosen))
        advice = f"add {owners[0]}" if len(owners) == 1 else "choose one of them"
        return f"{full_name} is a setting of {', '.join(owners)}; {advice}, or leave it out"
