"""What the Zarr container writes and reads."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

ZARR = "src/replaystore/containers/zarr/container.py"
LOG = "src/replaystore/containers/zarr/log.py"
NAMED = '        self.files.rename(SEGMENTS + ".new", SEGMENTS)\n'
NAMING_SYNCED = (
    "        self.files.sync_folder(LOG)  # whoever finds the segment in the folder finds it named\n"
)
GOT_ITS_NAME = '        self.files.rename(name + ".new", name)\n'
POWER = "test_power_loss.py::test_no_power_cut_loses_what_was_acknowledged"
POWER_AGAIN = "test_power_loss.py::test_nor_does_one_after_a_writer_that_went_on_where_another_was_stopped"
SUITE = "test_backends.py::TestBackends"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "zarr-files-not-synced",
        LOG,
        "            self.files.sync_files(self._dirty)\n",
        "",
        "rows are on the disk before a record speaks of them",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-folders-not-synced",
        LOG,
        "            self.files.sync_folders(self._folders)\n",
        "",
        "a new file of rows has its name on the disk before a record speaks of it",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-segment-renamed-before-sync",
        LOG,
        '        self.files.sync_files([file + ".new" for file in files])\n',
        '        self.files.sync_file(SEGMENTS + ".new")\n',
        "a segment of the log is whole when it gets its name",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-segment-named-after-it-is-there",
        LOG,
        f"{NAMED}{NAMING_SYNCED}{GOT_ITS_NAME}",
        f"{GOT_ITS_NAME}{NAMED}",
        "who cannot list the log finds a new segment as soon as it is there",
        ("test_far_log.py::test_at_every_moment_of_a_kill_or_a_power_cut_the_commit_is_that_of_a_listing",),
    ),
    Mutant(
        "zarr-naming-of-a-segment-not-synced",
        LOG,
        NAMING_SYNCED,
        "",
        "after a power cut, too",
        ("test_far_log.py::test_at_every_moment_of_a_kill_or_a_power_cut_the_commit_is_that_of_a_listing",),
    ),
    Mutant(
        "zarr-segment-name-not-synced",
        LOG,
        "            self.files.sync_folder(folder)\n            del self._folders[folder]\n",
        "            del self._folders[folder]\n",
        "a segment of the log has its name on the disk before anything follows it",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-log-of-killed-writer-not-synced",
        LOG,
        "self._dirty[name] = None  # whole or cut",
        "pass  # whole or cut",
        "what a killed writer left in the log is on the disk before another goes on",
        ("test_power_loss.py::test_a_commit_that_a_writer_finds_is_on_the_disk_when_the_store_is_open",),
    ),
    Mutant(
        "zarr-folder-of-killed-writer-not-synced",
        LOG,
        "            self._note_folders(os.path.dirname(file))\n            self._made.add(file)",
        "            self._made.add(file)",
        "the name of a file that a killed writer made is on the disk before another goes on",
        (f"{POWER_AGAIN}[zarr]",),
    ),
    Mutant(
        "zarr-fork-not-synced",
        ZARR,
        "                self.files.sync_file(copy)\n",
        "",
        "the copy that takes a file's place after a rollback is on the disk first",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-index-checksum-not-compared",
        ZARR,
        'if len(data) != length + 4 or crc32c(data[:length]) != int.from_bytes(data[length:], "little"):',
        "if len(data) != length + 4:",
        "an index of a shard that has changed is noticed",
        ("test_damage.py::test_every_byte_of_an_index_of_a_shard_is_checked",),
    ),
    Mutant(
        "zarr-shard-dropped-too-early",
        ZARR,
        "        last = row // spec.shard_rows\n        if since is None:\n",
        "        last = row // spec.shard_rows + 1\n        if since is None:\n",
        "a ring keeps the shard that its oldest row lies in",
        (f"{SUITE}::test_a_ring_keeps_the_newest_steps",),
    ),
    Mutant(
        "zarr-index-of-full-shard-not-written",
        ZARR,
        "            if at + step == per_shard:\n                self.files.write(file, 0, raw_index(",
        "            if at + step > per_shard:\n                self.files.write(file, 0, raw_index(",
        "other software finds the chunks of a shard that is complete",
        ("test_foreign_readers.py::test_zarr_python_reads_shards_that_are_complete",),
    ),
)
