"""A shared pipeline on a hub."""

from calotype.errors import InputError, RepositoryError
from calotype.sharing.card import Page
from calotype.weights.code.consent import Consent
from calotype.weights.code.source import Code
from calotype.weights.hub import endpoint, is_hub_id


def publish(page: Page) -> Code:
    """Push a page to its repository, in one commit, and approve it for this user, who just ran these bytes.

    Returns the code at its revision.

    Raises:
        InputError: the repository's name is no id.
        RepositoryError: nobody is logged in, the repository is somebody else's, or the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    name = page.code.source
    if not is_hub_id(name):
        raise InputError(f"--to {name!r} is not the id of a repository on a hub, which is 'owner/name'")
    api = HfApi(endpoint=endpoint(), library_name="calotype")
    operations = [CommitOperationAdd(path, content) for path, content in page.files.items()]
    try:
        api.create_repo(name, exist_ok=True)
        made = api.create_commit(name, operations, commit_message=f"Share {page.code.main} and its card")
    except LocalTokenNotFoundError:
        raise RepositoryError("nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        hint = "; run `hf auth login`, or set HF_TOKEN, as somebody who may write there" if status in (401, 403) else ""
        raise RepositoryError(f"{name} cannot be written: {str(error).splitlines()[0]}{hint}") from None
    except Exception as error:  # the client has had several HTTP libraries, each with errors of its own
        raise RepositoryError(f"{name} cannot be written: {type(error).__name__}: {error}") from error
    assert made.oid, "a commit has an id"
    code = Code(name, page.code.main, page.code.files, made.oid)
    Consent().approve(code, "shared")
    return code
