"""Settings of data: which files or tables are read, and what becomes of what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from gfn_ray.config.checks import absolute_path
from gfn_ray.config.sections import Section

TooLong = Literal["refuse", "skip"]


class FileConfig(Section):
    """What every task that reads files has."""

    path: Path | None = Field(None, description="File to read; default: what is embedded.")
    test_path: Path | None = Field(
        None,
        description="File of the same format whose rows alone are tested on; no test is cut off "
        "from the other data then, and rows that stand there too are left out of the test.",
    )
    columns: tuple[str, ...] | None = Field(
        None,
        description="Columns or keys with other names than expected, each as FOUND=EXPECTED: "
        "sentence=text reads the data's 'sentence' as 'text'.",
    )
    too_long: TooLong = Field(
        "refuse",
        description="What becomes of a text that is too long for the model or its prompt: the run "
        "is refused, or the text is left out, and the run says how many were.",
    )

    @property
    def renamed(self) -> dict[str, str]:
        """The expected name of each column that is found under another."""
        pairs = (pair.rpartition("=") for pair in self.columns or ())
        return {found.strip(): expected.strip() for found, _, expected in pairs}

    @property
    def has_test(self) -> bool:
        """Whether the rows to test on are given apart."""
        return self.test_path is not None

    @field_validator("path", "test_path")
    @classmethod
    def _from_anywhere(cls, path: Path | None) -> Path | None:
        """The settings are read again by --resume, by --config and where an adapter is served."""
        return absolute_path(path)

    @model_validator(mode="after")
    def _each_name_once(self) -> FileConfig:
        names = self.renamed
        given = ", ".join(self.columns or ())
        if not all(found and expected for found, expected in names.items()):
            raise ValueError(
                f"data.columns takes pairs FOUND=EXPECTED, such as sentence=text; got {given}"
            )
        if not len(set(names)) == len(set(names.values())) == len(self.columns or ()):
            raise ValueError(f"data.columns names a column twice; got {given}; leave one out")
        return self

    @model_validator(mode="after")
    def _two_files(self) -> FileConfig:
        if self.path is not None and self.path == self.test_path:
            raise ValueError(
                f"data.path and data.test_path are both {self.path}; leave the second out, and a "
                "test is cut off from the first"
            )
        return self


class DataConfig(FileConfig):
    """What the tasks that read texts have: stories, here."""

    path: Path | None = Field(
        None,
        description="CSV with ROCStories or Story Cloze columns, between commas, semicolons or "
        "tabs; default: the embedded stories.",
    )
    hub: str | None = Field(
        None, description="Hugging Face dataset id with the ROCStories columns, instead of a file."
    )
    hub_config: str | None = Field(
        None, description="Which of its configurations, where it has several."
    )
    split: str | None = Field(
        None,
        description="Which of its splits is read, such as train or train[:90%]; default: all but "
        "data.test_split.",
    )
    test_split: str | None = Field(
        None, description="Its split whose rows alone are tested on, as by data.test_path."
    )

    @property
    def has_test(self) -> bool:
        return self.test_path is not None or self.test_split is not None

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.path is not None and self.hub is not None:
            raise ValueError(
                f"data.path ({self.path}) and data.hub ({self.hub}) name two sources; give one"
            )
        if self.test_path is not None and self.test_split is not None:
            raise ValueError(
                f"data.test_path ({self.test_path}) and data.test_split ({self.test_split}) name "
                "two tests; give one"
            )
        for name in ("hub_config", "split", "test_split"):
            if self.hub is None and getattr(self, name) is not None:
                raise ValueError(
                    f"data.{name} ({getattr(self, name)}) is of a dataset of the hub, and data.hub "
                    "is none; give that, or leave it out"
                )
        if self.split is not None and self.split == self.test_split:
            raise ValueError(f"data.split and data.test_split are both {self.split}; change one")
        return self
