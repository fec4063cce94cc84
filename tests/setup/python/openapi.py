"""Reads an OpenAPI document from standard input; says `valid` or what is wrong with it."""

import json
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

problems = [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in OpenAPIV31SpecValidator(json.load(sys.stdin)).iter_errors()]
print("\n".join(problems) or "valid")
