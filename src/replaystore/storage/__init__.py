"""Where bytes lie: named files below one folder, on a disk, in memory or in a zip file, and the locks on
them.

Nothing here knows of arrays; whatever is read or written of a store goes through here."""
