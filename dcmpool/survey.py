"""The errand of a survey: what a file is, by its header, and now and then how long its decompression takes.

    Survey -> header -> [a trial: wants bytes -> inspect -> decode, all thrown away] -> Surveyed

Nothing is written. What identifies a patient does not leave this process: of the UIDs of Study and Series a digest is
told, by which they can be counted.
"""

import hashlib
import os
import re
import time
from collections import deque
from pathlib import Path
from typing import Final

from dcmpool import engines
from dcmpool.board import Board
from dcmpool.dataset import Element, shows_vr, walk
from dcmpool.errand import STREAM_BYTES, UID_CHARACTERS, Channel, Errand
from dcmpool.errors import Fault
from dcmpool.filemeta import find_file_meta
from dcmpool.instance import PIXEL_ELEMENTS, Instance, inspect
from dcmpool.model import FailureKind, Outcome, Stage
from dcmpool.protocol import Message, Survey, Surveyed, Trial
from dcmpool.source import Source, open_source

_SOP_CLASS_UID: Final = 0x00080016
_MODALITY: Final = 0x00080060
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_CODE_STRING: Final = re.compile(r"[A-Z0-9_ ]{0,16}")  # PS3.5 6.2, CS
_MOST_BYTES: Final = 256
"""A longer value of these elements is none that PS3.5 6.2 allows."""


class Surveying(Errand):
    """One look at one file."""

    def __init__(self, order: Survey, channel: Channel, board: Board) -> None:
        super().__init__(order, channel, board)
        self._order = order

    def _work(self) -> Message:
        with open_source(self._path) as source:
            header = inspect(source, whole=False)
            if header.outcome is Outcome.OTHER and self._order.skip_others:
                return Surveyed(self._job, Outcome.SKIPPED)
            said = {} if header.outcome is Outcome.OTHER else _values(source)
            uid = header.transfer_syntax_uid[:UID_CHARACTERS]
            modality = said.get(_MODALITY, "")
            return Surveyed(
                job=self._job,
                outcome=header.outcome,
                transfer_syntax_uid=uid,
                sop_class_uid=_uid(said.get(_SOP_CLASS_UID, "")),
                modality=modality if _CODE_STRING.fullmatch(modality) else "",
                study=_digest(said.get(_STUDY_INSTANCE_UID, "")),
                series=_digest(said.get(_SERIES_INSTANCE_UID, "")),
                native_bytes=header.native_bytes if header.outcome is Outcome.DECOMPRESSED else 0,
                result_bytes=_result_bytes(source, header),
                trial=self._try(source, header) if self._is_due(header) else None,
            )

    def _is_due(self, header: Instance) -> bool:
        wanted = self._order.trial and header.transfer_syntax_uid not in self._order.enough
        return wanted and header.outcome is Outcome.DECOMPRESSED and bool(_engines(header))

    def _try(self, source: Source, header: Instance) -> Trial:
        """Decompress as a run would, by the first engine that needs no file, and throw the Frames away.

        Raises
        ------
        Fault
            CORRUPT in the stage "inspect" is the verdict of a run too; any other is of this engine alone.
        """
        begun, cpu_begun = time.monotonic(), time.process_time()
        self._show_inspected(header)  # for its limit
        instance = inspect(source)
        if instance.flaw:
            raise Fault(FailureKind.CORRUPT, instance.flaw)
        self._engine = _engines(instance)[0]
        self._show_inspected(instance)
        waited = self._begun
        self._need_bytes(min(instance.memory_bytes, STREAM_BYTES), ask=instance.memory_bytes > STREAM_BYTES)
        self._enter(Stage.DECODE)
        deque(engines.decode(self._engine, instance, source, Path(os.devnull)), maxlen=0)
        seconds = time.monotonic() - begun - (self._begun - waited)
        return Trial(self._engine, seconds, time.process_time() - cpu_begun)


def _engines(instance: Instance) -> list[str]:
    """Give the engines that can decode an instance and write nothing."""
    return [name for name in engines.candidates(instance) if name not in engines.WRITES_FILES]


def _values(source: Source) -> dict[int, str]:
    """Give the values that a survey counts by, as far as the header can be read."""
    said: dict[int, str] = {}
    found = find_file_meta(source)
    if found is None:
        return said
    _, _, data_set = found
    try:
        for element in walk(source, data_set, explicit=shows_vr(source, data_set)):
            if element.tag > _SERIES_INSTANCE_UID:
                break
            if element.tag in (_SOP_CLASS_UID, _MODALITY, _STUDY_INSTANCE_UID, _SERIES_INSTANCE_UID):
                said.setdefault(element.tag, _text(source, element))
    except Fault as fault:
        if fault.kind is not FailureKind.CORRUPT:
            raise
    return said


def _text(source: Source, element: Element) -> str:
    if element.length > _MOST_BYTES:
        return ""
    return source.read(element.value, element.length).decode("ascii", "replace").strip("\x00 ")


def _uid(text: str) -> str:
    return text if len(text) <= UID_CHARACTERS and re.fullmatch(r"[0-9.]*", text) else ""


def _digest(uid: str) -> int:
    """Give 63 bits that stand for a UID, 0 for none."""
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest(), "big") >> 1 or 1 if uid else 0


def _result_bytes(source: Source, header: Instance) -> int:
    """Give how large the result will be, within some hundred bytes."""
    if header.outcome is not Outcome.DECOMPRESSED or header.layout is None:
        return source.size
    if header.image is None:
        return source.end  # the data set takes another form, and that is what `source` shows
    elements = header.layout.elements
    pixels = next(elements[tag] for tag in PIXEL_ELEMENTS if tag in elements)
    return source.size - (pixels.end - pixels.value) + header.native_bytes
