"""One tick of the inbox: what lies still is moved to `datasets/<key>/`, what is unfit to quarantine.

Knows nothing of Dagster: which datasets are validated and which are in an open run is passed in.
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from gpu_assets.datasets.journal import Intent, Move, perform, recover, staging_folder
from gpu_assets.datasets.names import SIDECAR_SUFFIX, dataset_key, display, free_name, slug, stem_of
from gpu_assets.datasets.priority import in_order, priority_of
from gpu_assets.datasets.records import (
    DATA_FILE,
    DUPLICATES_FOLDER,
    SIDECAR_FILE,
    Dataset,
    dataset_keys,
    read_dataset,
    sidecar_sha256,
    standing_refusal,
)
from gpu_assets.datasets.refusals import UNREADABLE, Rejection, reject
from gpu_assets.datasets.scan import Entry, Look, Scan, look_at, scan
from gpu_assets.datasets.writers import has_cut_line, is_open_for_writing, seconds_until_settled
from gpu_assets.errors import ArtifactInvalid
from gpu_assets.settings import Intake
from resources.artifacts import sha256_file
from resources.clock import utc_now
from resources.workspace import Workspace

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_SETTLE_IN_A_TICK = 2.0
"""A file that settles within this time is waited for; one that needs longer waits for the next tick."""
SECONDS_OF_ROUNDING = 0.02
"""A file's time is taken from a coarser clock than now."""
SECONDS_UNTIL_A_SIDECAR_IS_ALONE = 5.0
"""A younger sidecar without data may be the first of a pair that is being dropped."""
SECONDS_TO_WAIT_FOR_A_WRITER = 600.0
"""A file that a process holds open for writing waits as long after its last change."""
SECONDS_TO_WAIT_FOR_A_LINE_END = 30.0
"""Where writers cannot be seen, a file whose last line has no end waits as long after its last change."""
CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Limits:
    """How much one tick takes in; one entry is always taken."""

    files: int = 200
    hashed_bytes: int = 2 * 2**30


DEFAULT_LIMITS = Limits()
DEFAULT_SETTLE_S = Intake().settle_s


@dataclass
class IntakeReport:
    """What a tick did: keys, and sentences for people."""

    taken_in: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Unstable(Exception):
    """The file is being written to; the message says how that was seen."""


def take_in(
    workspace: Workspace,
    *,
    validated: Collection[str],
    open_keys: Collection[str],
    limits: Limits = DEFAULT_LIMITS,
    settle_s: float = DEFAULT_SETTLE_S,
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
) -> IntakeReport:
    """Finish what a crash left, look twice, and move what did not change in between.

    Args:
        validated: keys that passed their gates; their sidecars are final.
        open_keys: keys in a queued or running run; their sidecars wait.
        settle_s: a file that was written where it lies is taken in as long after its last change.
        pause: called between two looks, if there is anything to look at.
        now: seconds since the epoch, as file times are.
    """
    lock = FileLock(workspace.datasets / ".intake.lock")
    try:
        with lock.acquire(timeout=0):
            return _Tick(workspace, validated, open_keys, limits, settle_s, now).run(pause)
    except Timeout:
        return IntakeReport(notes=["an earlier tick is still taking files in"])


class _Tick:
    def __init__(
        self,
        workspace: Workspace,
        validated: Collection[str],
        open_keys: Collection[str],
        limits: Limits,
        settle_s: float,
        now: Callable[[], float],
    ) -> None:
        self.workspace = workspace
        self.validated = validated
        self.open_keys = open_keys
        self.limits = limits
        self.settle_s = settle_s
        self.now = now
        self.blind_to_writers: str | None = None
        self.report = IntakeReport()
        self.keys: list[str] = []

    def run(self, pause: Callable[[float], None]) -> IntakeReport:
        self.report.notes += recover(self.workspace)
        first = scan(self.workspace.inbox)
        self.report.notes += first.unreadable
        if not len(first):
            return self.report
        stable = self._stable(first, pause)
        self.keys = dataset_keys(self.workspace)
        self._take_entries(in_order(stable.entries))
        for entry in stable.lone_sidecars:
            self._guarded(entry, self._take_lone_sidecar)
        if self.blind_to_writers is not None:
            self.report.notes.append(
                f"whether a program still writes to a file cannot be seen here ({self.blind_to_writers}): files are "
                f"taken in {self.settle_s:g} s after their last change (intake.settle_s)"
            )
        return self.report

    def _stable(self, first: Scan, pause: Callable[[float], None]) -> Scan:
        """What did not change between the looks; one more look where a file settles within the tick."""
        pause(SECONDS_BETWEEN_LOOKS)
        later = scan(self.workspace.inbox)
        stable = first.same_in(later)
        remaining = (self._until_settled(entry) for entry in stable.entries)
        wait = max((seconds for seconds in remaining if seconds <= SECONDS_TO_SETTLE_IN_A_TICK), default=0.0)
        if wait > 0:
            pause(wait + SECONDS_OF_ROUNDING)
            later = scan(self.workspace.inbox)
            stable = stable.same_in(later)
        gone = first.gone_in(later)
        self.report.notes += [_went_away(path) for path in gone]
        if moving := len(first) - len(stable) - len(gone):
            self.report.notes.append(f"{moving} entries of the inbox are still changing")
        return stable

    def _take_entries(self, entries: list[Entry]) -> None:
        hashed = 0
        for count, entry in enumerate(entries):
            size = entry.look.size if entry.look.kind == "file" else 0
            if count and (count >= self.limits.files or hashed + size > self.limits.hashed_bytes):
                self.report.notes.append(f"{len(entries) - count} entries of the inbox wait for the next tick")
                return
            hashed += size
            self._guarded(entry, self._take_entry)

    def _guarded(self, entry: Entry, take: Callable[[Entry], None]) -> None:
        """One entry that cannot be moved or read does not hold the others."""
        try:
            take(entry)
        except FileNotFoundError as error:
            is_gone = not os.path.lexists(entry.path)
            stays = f"{display(entry.path.name)} stays in the inbox: {error}"
            self.report.notes.append(_went_away(entry.path) if is_gone else stays)
        except (OSError, ArtifactInvalid) as error:
            self.report.notes.append(f"{display(entry.path.name)} stays in the inbox: {error}")

    def _take_entry(self, entry: Entry) -> None:
        rejection = reject(entry)
        if rejection is not None:
            self._refuse(entry, rejection)
            return
        try:
            sha256 = self._hash(entry)
        except PermissionError:
            self._refuse(entry, UNREADABLE)
        except _Unstable as unstable:
            self.report.notes.append(f"{display(entry.path.name)} {unstable}")
        else:
            known = self._find_by_content(sha256)
            if known is None:
                self._claim(entry, sha256)
            else:
                self._keep_duplicate(entry, known)

    def _hash(self, entry: Entry) -> str:
        """sha256 of a file that nobody writes to; its bytes are on the disk afterwards."""
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            self._refuse_unfinished(entry, file)
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
            os.fsync(descriptor)
            if Look.from_stat(os.fstat(descriptor)) != entry.look:
                raise _Unstable("changed while it was read")
        return digest.hexdigest()

    def _refuse_unfinished(self, entry: Entry, file: BinaryIO) -> None:
        """Look for a writer.

        Raises:
            _Unstable: if there is one, or may be.
        """
        try:
            is_open = is_open_for_writing(file.fileno())
        except OSError as error:
            is_open = False
            self.blind_to_writers = self.blind_to_writers or f"{display(entry.path.name)}: {error.strerror}"
            wait = seconds_until_settled(entry.path, entry.look, self.now(), SECONDS_TO_WAIT_FOR_A_LINE_END)
            if wait and has_cut_line(file):
                raise _Unstable(
                    f"has no end of its last line; it may still be written to ({wait:.0f} s left)"
                ) from None
        if is_open and self._age(entry.look) < SECONDS_TO_WAIT_FOR_A_WRITER:
            raise _Unstable("is held open for writing by another program")
        if wait := self._until_settled(entry):
            raise _Unstable(f"was changed a moment ago; it must lie still for {wait:.1f} s more (intake.settle_s)")

    def _until_settled(self, entry: Entry) -> float:
        """Seconds until both the file and its sidecar are settled."""
        now = self.now()
        wait = seconds_until_settled(entry.path, entry.look, now, self.settle_s)
        if entry.sidecar is not None and entry.sidecar_look is not None:
            wait = max(wait, seconds_until_settled(entry.sidecar, entry.sidecar_look, now, self.settle_s))
        return wait

    def _age(self, look: Look) -> float:
        return self.now() - look.mtime_ns / 1e9

    def _claim(self, entry: Entry, sha256: str) -> None:
        key = dataset_key(entry.path.name, sha256)
        if key in self.keys:
            key = dataset_key(entry.path.name, sha256, digits=16)
        staging = staging_folder(self.workspace, key)
        moves = [Move(entry.path, staging / DATA_FILE, entry.look)]
        if entry.sidecar is not None:
            moves.append(Move(entry.sidecar, staging / SIDECAR_FILE, entry.sidecar_look))
        manifest = self._dataset(entry, key, sha256).to_manifest()
        if self._perform(entry, Intent(key, tuple(moves), manifest=manifest)):
            self.keys.append(key)
            self.report.taken_in.append(key)

    def _refuse(self, entry: Entry, rejection: Rejection) -> None:
        key = rejection.key(entry)
        folder = self.workspace.quarantine / key
        sentence = rejection.sentence(entry, folder)
        moves = self._moves_into(folder, entry, frozenset({"reason.json"}))
        manifest = self._dataset(entry, key, rejection.identity(entry), sentence).to_manifest()
        is_known = key in self.keys
        intent = Intent(
            key,
            moves,
            manifest=None if is_known else manifest,
            reason=rejection.reason(entry, sentence),
            reopens=is_known,
        )
        if self._perform(entry, intent):
            self.keys = self.keys if is_known else [*self.keys, key]
            self.report.refused.append(key)
            self.report.notes.append(sentence)

    def _keep_duplicate(self, entry: Entry, known: Dataset) -> None:
        """The copy goes beside the known data; its sidecar opens a refused dataset again."""
        corrects = known.key not in self.validated and self._needs_sidecar(known, entry.sidecar)
        if corrects and known.key in self.open_keys:
            self.report.notes.append(f"{display(entry.path.name)} waits until the run over {known.key} has ended")
            return
        moves = list(self._moves_into(known.folder / DUPLICATES_FOLDER, entry))
        if corrects:
            moves[1:] = self._sidecar_moves(entry.sidecar, entry.sidecar_look, known)
        record = {
            "original_name": display(entry.path.name),
            "kept_as": display(moves[0].target.name),
            "sidecar_used": corrects,
            "at": utc_now(),
        }
        if self._perform(entry, Intent(known.key, tuple(moves), duplicate=record, reopens=corrects)):
            effect = "its sidecar opens that dataset again" if corrects else "nothing new is trained"
            self.report.notes.append(f"{display(entry.path.name)} has the content of {known.key}: {effect}")

    def _needs_sidecar(self, known: Dataset, sidecar: Path | None) -> bool:
        """Whether this sidecar is another one than a refused dataset's, or the first of one without."""
        if sidecar is None or sidecar_sha256(known.folder) == sha256_file(sidecar):
            return False
        return known.sidecar_path is None or standing_refusal(known.folder) is not None

    def _take_lone_sidecar(self, entry: Entry) -> None:
        name = entry.path.name.removesuffix(SIDECAR_SUFFIX)
        age = self.now() - max(entry.path.lstat().st_mtime, entry.path.lstat().st_ctime)
        named = self._find_by_name(name) if age >= SECONDS_UNTIL_A_SIDECAR_IS_ALONE else []
        if not named:
            self.report.notes.append(f"{display(entry.path.name)} waits for its data file, {display(name)}")
            return
        waiting = [dataset for dataset in named if dataset.key not in self.validated]
        dataset = (waiting or named)[-1]
        if dataset.key in self.open_keys:
            self.report.notes.append(f"{display(entry.path.name)} waits until the run over {dataset.key} has ended")
        elif not waiting:
            self._ignore_sidecar(entry, dataset, "was validated already")
        elif sidecar_sha256(dataset.folder) == sha256_file(entry.path):
            self._ignore_sidecar(entry, dataset, "has the same sidecar already")
        else:
            moves = self._sidecar_moves(entry.path, entry.look, dataset)
            if self._perform(entry, Intent(dataset.key, moves, reopens=True)):
                self.report.notes.append(f"{display(entry.path.name)} is the new sidecar of {dataset.key}")

    def _ignore_sidecar(self, entry: Entry, dataset: Dataset, why: str) -> None:
        target = dataset.folder / free_name(dataset.folder, "sidecar.ignored.json")
        if self._perform(entry, Intent(dataset.key, (Move(entry.path, target, entry.look),))):
            self.report.notes.append(
                f"{display(entry.path.name)} changes nothing: {dataset.key} {why}; it is kept as {target.name} there"
            )

    def _sidecar_moves(self, sidecar: Path | None, look: Look | None, dataset: Dataset) -> tuple[Move, ...]:
        """The new sidecar comes beside first, then the old one goes aside, so that neither is ever missing."""
        if sidecar is None:
            return ()
        arrived, current = dataset.folder / ".sidecar.new", dataset.folder / SIDECAR_FILE
        moves = [Move(sidecar, arrived, look), Move(arrived, current, None)]
        if dataset.sidecar_path is not None:
            kept = dataset.folder / _numbered_sidecar(dataset.folder)
            moves.insert(1, Move(current, kept, look_at(current)))
        return tuple(moves)

    def _moves_into(self, folder: Path, entry: Entry, taken: frozenset[str] = frozenset()) -> tuple[Move, ...]:
        moves = [Move(entry.path, folder / free_name(folder, entry.path.name, taken), entry.look)]
        if entry.sidecar is not None:
            name = free_name(folder, entry.sidecar.name, taken)
            moves.append(Move(entry.sidecar, folder / name, entry.sidecar_look))
        return tuple(moves)

    def _perform(self, entry: Entry, intent: Intent) -> bool:
        done = perform(self.workspace, intent)
        if not done:
            self.report.notes.append(f"{display(entry.path.name)} changed or went away while it was taken in")
        return done

    def _dataset(self, entry: Entry, key: str, sha256: str, refused: str | None = None) -> Dataset:
        priority, source = priority_of(entry)
        folder = self.workspace.datasets / key
        return Dataset(
            key=key,
            folder=folder,
            data_path=folder / DATA_FILE,
            sidecar_path=None,
            sha256=sha256,
            size_bytes=entry.look.size if entry.look.kind == "file" else 0,
            priority=priority,
            priority_source=source,
            original_name=display(entry.path.name),
            inbox_path=display(str(entry.path.relative_to(self.workspace.inbox))),
            taken_in_at=utc_now(),
            refused=refused,
        )

    def _find_by_content(self, sha256: str) -> Dataset | None:
        for key in self.keys:
            if sha256.startswith(key.rpartition("-")[2]):
                dataset = read_dataset(self.workspace.datasets / key)
                if dataset.sha256 == sha256 and dataset.refused is None:
                    return dataset
        return None

    def _find_by_name(self, name: str) -> list[Dataset]:
        """Datasets that were taken in under this name, in the order of their taking in."""
        prefix = f"{slug(stem_of(name))}-"
        found = [read_dataset(self.workspace.datasets / key) for key in self.keys if key.startswith(prefix)]
        named = [dataset for dataset in found if dataset.refused is None and dataset.original_name == display(name)]
        return sorted(named, key=lambda dataset: dataset.taken_in_at)


def _went_away(path: Path) -> str:
    return f"{display(path.name)} went away before it was taken in"


def _numbered_sidecar(folder: Path) -> str:
    number = 1
    while os.path.lexists(folder / f"sidecar.{number}.json"):
        number += 1
    return f"sidecar.{number}.json"
