"""Files of weights by name, in repositories of the Hugging Face hub."""

import logging
import re
from pathlib import Path, PurePosixPath

logger = logging.getLogger(__name__)

# The hub's own notation has the revision behind the repository; it is taken too.
_NAME = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+?)(?:@([^/@]+))?")


def download(name: str) -> Path:
    """The local copy of ``hf://owner/repository/file[@revision]``, downloaded once.

    Cache, offline mode, token and the hub's address are huggingface_hub's, by its environment
    variables HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT.

    Args:
        name: the file may lie in a folder; the revision is a branch, a tag or a commit, "main"
            where there is none. The log says which commit it was.

    Raises:
        ValueError: it is no such name.
        OSError: the hub refuses it, or it is neither in the cache nor to be reached.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(
            "expected hf://owner/repository/file or hf://owner/repository/file@revision"
        )
    repository, early, file, late = match.groups()
    revision = late or early or "main"
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError as error:
        reason = "this needs huggingface_hub, which is not installed: pip install huggingface_hub"
        raise OSError(reason) from error
    page = f"{constants.ENDPOINT}/{repository}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    unreachable = f"{constants.ENDPOINT} cannot be reached"
    if constants.HF_HUB_OFFLINE:
        unreachable = "HF_HUB_OFFLINE forbids to download it"
    # Kinds of errors, before those that they are kinds of.
    reasons = {
        errors.GatedRepoError: f"its authors ask to accept their terms at {page}; then {log_in}",
        errors.RepositoryNotFoundError: f"there is no {page}, or it is private: {log_in}",
        errors.RevisionNotFoundError: f"{page} has no branch, tag or commit {revision}",
        errors.LocalEntryNotFoundError: f"{unreachable}, and it is not in {constants.HF_HUB_CACHE}",
        errors.EntryNotFoundError: f"{page}/tree/{revision} has no such file",
    }
    try:
        path = Path(hf_hub_download(repository, file, revision=revision))
    except (errors.HTTPError, *reasons) as error:  # the first is of a connection that broke
        known = (reason for kind, reason in reasons.items() if isinstance(error, kind))
        raise OSError(next(known, str(error))) from error
    commit = path.parents[len(PurePosixPath(file).parts) - 1].name
    logger.info(f"hf://{repository}/{file} of {revision} is @{commit}")
    return path
