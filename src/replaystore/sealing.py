"""Seal an archive (being written)."""


def check_manifest(place, container):  # noqa
    return []
