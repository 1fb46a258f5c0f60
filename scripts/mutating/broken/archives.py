"""Archives and zip files."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

ZARR = "src/replaystore/containers/zarr/container.py"
SEALING = "src/replaystore/arrays/sealing.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "archive-manifest-before-removal-is-synced",
        ZARR,
        "self.files.sync_folders([LOG, os.path.dirname(TAIL)])",
        "pass",
        "what sealing removes is gone for good before the manifest is written",
        (
            "test_sealing_damage.py::test_what_sealing_removes_is_gone_for_good_before_the_manifest_is_written",
        ),
    ),
    Mutant(
        "archive-sidecar-of-bytes-that-are-not-synced",
        SEALING,
        "files.sync_file(name)  # HDF5's last marker",
        "pass  # HDF5's last marker",
        "a sidecar is of bytes that are on the disk",
        ("test_sealing_damage.py::test_a_sidecar_is_of_bytes_that_are_on_the_disk_and_of_no_other_store",),
    ),
    Mutant(
        "archive-sidecar-of-the-store-before",
        SEALING,
        'files.sync_folder("")  # it must not be there',
        "pass  # it must not be there",
        "a sidecar is of no other store",
        ("test_sealing_damage.py::test_a_sidecar_is_of_bytes_that_are_on_the_disk_and_of_no_other_store",),
    ),
    Mutant(
        "archive-metadata-not-compared",
        SEALING,
        "elif _digest(files, name, most) != listed[name]:",
        "elif not listed[name]:",
        "a file of an archive that has changed is noticed",
        ("test_sealing_damage.py::test_whichever_file_is_damaged_values_are_right_or_it_is_said",),
    ),
    Mutant(
        "zip-not-synced",
        "src/replaystore/storage/zip.py",
        "            new.sync()\n",
        "",
        "a zip file is whole on the disk when it gets its name",
        ("test_zip.py::test_a_zip_is_on_the_disk_when_it_gets_its_name_and_its_name_is_when_that_is_told",),
    ),
    Mutant(
        "zip-member-reaches-into-the-next",
        "src/replaystore/storage/zip_directory.py",
        "        if begin + member.length > member.stop:\n",
        "        if begin < 0:\n",
        "members of a zip share no bytes",
        ("test_zip.py::test_a_header_that_says_something_else_is_refused",),
    ),
    Mutant(
        "zip-members-not-aligned",
        "src/replaystore/storage/zip.py",
        "(_ZIP64 if large else 0) + 6\n",
        "(_ZIP64 if large else 0)\n",
        "the bytes of each large member begin on a page",
        ("test_zip.py::test_large_members_begin_on_pages_and_other_software_reads_all",),
    ),
)
