"""x"""

_own_folder: tuple[Path, str] | None = None
"""Run folder of this process's command and the name of its log there, if Hydra named it: the user named none with hydra.run.dir."""


_STARTED = time.time()


def _remove_unused_folder() -> None:
    """Removes the run folder if it holds only what Hydra writes there, settings and log: the command failed before it wrote
    anything, or wrote it elsewhere. Folders above, up to the working folder, go too if they are empty then. A folder that the user
    named, or that was there before, stays."""
    if _own_folder is None:
        return
    folder, log_name = _own_folder
    with suppress(OSError):  # on a network file system, a file that is still open may keep its folder
        is_new = (folder / ".hydra").stat().st_mtime > _STARTED - 1
        if is_new and {entry.name for entry in folder.iterdir()} <= {".hydra", ".lock", log_name}:
            for handler in logging.getLogger().handlers[:]:
                if isinstance(handler, logging.FileHandler):
                    logging.getLogger().removeHandler(handler)
                    handler.close()
            shutil.rmtree(folder)
            if not folder.is_absolute():
                os.removedirs(folder.parent)
