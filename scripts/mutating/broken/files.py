"""Files that are replaced, and names that they get."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

STORAGE = "src/replaystore/storage/protocol.py"
LEFT_BEHIND = "src/replaystore/buffers/left_behind.py"
OPENING = "src/replaystore/buffers/opening.py"
REPLACING = "src/replaystore/buffers/replacing.py"
PLACES = "src/replaystore/storage/places.py"
KILLED = "test_replacing.py::test_killed_at_any_call_there_is_the_old_or_the_new"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "files-replaced-before-sync",
        STORAGE,
        '        self.sync_files([name + ".new" for name in contents])\n',
        "",
        "a file that is replaced has the old content or the new after a power cut",
        ("test_power_loss.py::test_what_was_replaced_stays_replaced",),
    ),
    Mutant(
        "files-replaced-without-folder-sync",
        STORAGE,
        "        self.sync_folders(dict.fromkeys(os.path.dirname(name) for name in contents))\n",
        "",
        "a file that is replaced has the new content for good when that is told",
        ("test_power_loss.py::test_what_was_replaced_stays_replaced",),
    ),
    Mutant(
        "old-removed-before-the-new-has-its-name",
        PLACES,
        "        files.rename(name, old)\n        files.rename(new, name)\n",
        "        shutil.rmtree(files.path(name))\n        files.rename(new, name)\n",
        "under a name is the old store or the new one at every moment",
        (f"{KILLED}[create .zarr-renames]",),
    ),
    Mutant(
        "exchanged-by-removing",
        PLACES,
        "if not files.exchange(new, name):",
        "if shutil.rmtree(path) or files.rename(new, name):",
        "a folder is replaced in one step",
        (f"{KILLED}[create .zarr-exchange]",),
    ),
    Mutant(
        "new-name-not-synced",
        REPLACING,
        "            places.sync_name(place.path, self._folders)\n",
        "            places.resolved(place.path)\n",
        "a store that was made has its name on the disk",
        ("test_power_loss.py::test_a_conversion_that_is_done_is_on_the_disk",),
    ),
    Mutant(
        "name-given-by-a-killed-process-not-synced",
        OPENING,
        "                places_of(place).sync_name(place.path, if_allowed=True)\n",
        "                places_of(place)\n",
        "a store that is written to has its name on the disk",
        ("test_power_loss.py::test_a_writer_syncs_the_name_that_a_killed_one_did_not",),
    ),
    Mutant(
        "interrupted-replacement-not-settled",
        LEFT_BEHIND,
        '            with refused(f"{left} cannot get its name back"):\n                put_back(place)\n',
        '            with refused(f"{left} cannot get its name back"):\n                break\n',
        "who opens a store that was being replaced finds the old one or the new",
        (f"{KILLED}[create .zarr-renames]",),
    ),
    Mutant(
        "pair-read-while-it-is-replaced",
        "src/replaystore/formats/velora/pair.py",
        "                    busy = any(map(replacing, places[:2]))\n",
        "                    busy = False\n",
        "files that lose their names for a moment are not missing",
        ("test_pairs_beside.py::test_a_loader_and_a_saver_meet[of_file-9]",),
    ),
)
