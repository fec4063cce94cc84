"""Checks of our own, beside all of schemathesis'."""

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.generation import GenerationMode

# Codes for what is wrong with a value's form, which the document can say.
OF_THE_FORM = {"wrong_type", "unknown_field", "malformed_json", "invalid_length", "too_many", "unsupported_media_type"}


def is_valid(case):
    """Whether the document allows the request."""
    return case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE


@schemathesis.check
def refused_for_what_the_document_does_not_say(ctx, response, case):
    """A request that the document allows is never refused for its form."""
    if response.status_code not in (400, 415, 422) or not is_valid(case):
        return
    problem = response.json()
    # What stands in settings is for the plugin's own schema to say, which is in its manifest.
    of_host = [error for error in problem["errors"] if not {"config", "settings"} & set(error["pointer"].split("/"))]
    codes = {error["code"] for error in of_host}
    if not problem["errors"]:
        codes.add(problem["code"])
    # A parameter that cannot be read has no place in a body, so it has no entry either.
    form = codes & (OF_THE_FORM | ({"invalid_query"} if not problem["errors"] else set()))
    if form:
        raise Failure(
            operation=case.operation.label,
            title="Refused for what the document does not say",
            message=f"{', '.join(sorted(form))}: {problem['detail']} {problem['errors']}",
        )


@schemathesis.check
def errors_are_problems(ctx, response, case):
    """Every error is problem+json with the request's id; one that asks to come back says when."""
    if response.status_code < 400:
        return
    kind = response.headers.get("content-type", [""])[0]
    assert kind == "application/problem+json", f"{response.status_code} with {kind}"
    problem = response.json()
    assert problem["status"] == response.status_code, problem
    assert [problem["request_id"]] == response.headers.get("x-request-id"), problem
    assert problem["detail"] and problem["code"], problem
    if response.status_code in (429, 503):
        assert "retry-after" in response.headers, problem
    if response.status_code == 401:
        assert "www-authenticate" in response.headers, problem


@schemathesis.serializer("application/wasm")
def plugin(ctx, value):
    """A plugin file is its bytes."""
    return value if isinstance(value, bytes) else str(value).encode()
