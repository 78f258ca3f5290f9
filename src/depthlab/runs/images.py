"""Whether the images that a finished run has seen are those that its data set holds now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from depthlab.config.identity import flatten
from depthlab.config.schema import TrainConfig, as_dict
from depthlab.errors import InputError

if TYPE_CHECKING:
    from depthlab.records.record import Record

UNKNOWN = "the images cannot be read now: whether they have changed is not known"


class ImageChecks:
    """Reads data sets that can change under their name, each once, and compares them with records."""

    def __init__(self) -> None:
        self._fingerprints: dict[str, str | None] = {}

    def difference(self, config: TrainConfig, record: Record) -> str | None:
        """What is other than the record of a finished run says, in words; None where nothing is.

        A record that says nothing of its images, and a data set that cannot be read, are no difference.
        """
        recorded = record.data.get("fingerprint")
        if config.data.is_fixed or recorded is None or not record.is_done:
            return None
        now = self._fingerprint(config)
        if now in (None, recorded):
            return None
        return f"the images of data={config.data.name} (fingerprint {now}, the record's {recorded})"

    def is_unknown(self, config: TrainConfig) -> bool:
        """Whether the data set of a run that was compared could not be read."""
        return self._fingerprints.get(_key(config), "") is None

    def _fingerprint(self, config: TrainConfig) -> str | None:
        key = _key(config)
        if key not in self._fingerprints:
            from depthlab.runs.build import build_data  # torch and Lightning, which a launcher does without

            try:
                self._fingerprints[key] = build_data(config, may_download=False).fingerprint()
            except (InputError, OSError):
                self._fingerprints[key] = None
        return self._fingerprints[key]


def _key(config: TrainConfig) -> str:
    """The same for runs on the same images."""
    keys = {key: value for key, value in flatten(as_dict(config)).items() if key.startswith(("data.", "paths.data"))}
    return json.dumps(keys, default=str)
