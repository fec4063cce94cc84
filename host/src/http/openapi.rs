//! The OpenAPI document: what the handlers say of themselves, and what is true of all of them.

mod links;

use utoipa::OpenApi;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Ref, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, RefOr, Required};

use super::error::Problem;

/// What stands above all operations.
#[derive(OpenApi)]
#[openapi(
    info(title = "Leadwire", description = "Takes sales leads and brings each to every CRM, inbox, chat and webhook its project has enabled."),
    components(schemas(Problem)),
    security(("api_key" = []), ("bearer" = [])),
    tags((name = "Sending"), (name = "Administration"), (name = "Operations"))
)]
pub struct Document;

/// Adds to every operation what all have in common: problems, the request's id, idempotency.
pub fn complete(document: &mut utoipa::openapi::OpenApi) {
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("api_key", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
    components.add_security_scheme("bearer", SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()));
    for (path, item) in &mut document.paths.paths {
        let public = !path.starts_with("/api/");
        let operations =
            [(&mut item.get, false), (&mut item.post, true), (&mut item.put, true), (&mut item.patch, true), (&mut item.delete, false)];
        for (number, (operation, writes_body)) in operations.into_iter().enumerate() {
            let Some(operation) = operation else { continue };
            name(operation, ["get", "post", "put", "patch", "delete"][number], path);
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    response.description = if status == "201" { "Made" } else { "Done" }.into();
                }
            }
            if !public {
                problems(operation, writes_body);
            }
            if number == 1 && !public {
                let key = text().min_length(Some(1)).max_length(Some(255)).pattern(Some("^[!-~]([\\t -~]*[!-~])?$"));
                header(operation, "Idempotency-Key", "Within 24 hours, the same key and body get the first answer again.", key);
            }
            let sends = path == "/api/leads" || path.ends_with("/send-batch") || path.ends_with("{id}/resend");
            if number == 1 && sends {
                let wait = text().examples(["wait=1"]);
                header(operation, "Prefer", "`wait=N`: wait up to N seconds (60 at most) for the batch to end.", wait);
            }
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response {
                    let id = HeaderBuilder::new().description(Some("Correlation id; a UUIDv7 of the caller is kept.")).build();
                    response.headers.insert("X-Request-Id".into(), id.into());
                }
            }
        }
    }
    links::add(document);
}

/// An id of its own, which client generators make a function's name of: several handlers have the same name.
fn name(operation: &mut Operation, method: &str, path: &str) {
    let words = path.split(['/', '-', '_', '{', '}']).filter(|word| !word.is_empty() && *word != "api");
    operation.operation_id = Some(std::iter::once(method).chain(words).collect::<Vec<_>>().join("_"));
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn header(operation: &mut Operation, name: &str, description: &str, schema: ObjectBuilder) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build();
    operation.parameters.get_or_insert_default().push(parameter.into());
}

fn problems(operation: &mut Operation, writes_body: bool) {
    let all = [
        (true, "400", "The request cannot be understood, such as malformed JSON"),
        (true, "401", "The key is missing, unknown, revoked or expired"),
        (true, "403", "The key lacks the scope"),
        (true, "404", "No such thing, or one that the key may not see"),
        (writes_body, "408", "The body did not arrive in time"),
        (writes_body, "409", "It is not in the state for this, is taken, was changed meanwhile, or the same request still runs"),
        (writes_body, "413", "The body is too large; the detail names the maximum"),
        (writes_body, "415", "The body is of another type"),
        (true, "422", "Fields or parameters that cannot be used; `errors` names each"),
        (true, "429", "The key has made too many requests, or too much waits already; `Retry-After` says when to try again"),
        (true, "500", "A defect of the host"),
        (true, "503", "The database cannot be used, or the host has too much to do now; `Retry-After` says when to try again"),
    ];
    for (applies, status, description) in all {
        if applies && !operation.responses.responses.contains_key(status) {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let response = ResponseBuilder::new().description(description).content("application/problem+json", content).build();
            operation.responses.responses.insert(status.to_owned(), RefOr::T(response));
        }
    }
}
