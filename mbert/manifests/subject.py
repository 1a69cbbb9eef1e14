"""A person shown in a video: the name of a subject."""


class Subject(str):
    """A person of a dataset: `Subject("casme2", "sub01")`, so that equal ids of two datasets stay two people.

    It equals, and is stored and printed as, the text `casme2/sub01`. The dataset is the one that its people were first
    released with (`people_of`).
    """

    __slots__ = ()

    def __new__(cls, dataset: str, id: str) -> "Subject":
        """A person of a dataset; the dataset is empty if unknown."""
        return super().__new__(cls, f"{dataset}/{id}" if dataset else id)

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Supports copies and other processes."""
        return self.dataset, self.id

    @classmethod
    def parse(cls, text: str) -> "Subject":
        """Parse `casme2/sub01`; a text without a slash is an id of an unknown dataset."""
        dataset, slash, bare = text.partition("/")
        return cls(dataset, bare) if slash else cls("", text)

    @property
    def dataset(self) -> str:
        """`casme2` for `casme2/sub01`."""
        return self.partition("/")[0] if "/" in self else ""

    @property
    def id(self) -> str:
        """`sub01` for `casme2/sub01`."""
        return self.partition("/")[2] if "/" in self else str(self)
