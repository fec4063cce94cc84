//! The HTTP interface. Handlers read a request, ask policies and the store, and answer; they never run a plugin themselves.
//!
//! Start at [`router`]. [`serve`] keeps connections within their limits, [`frame`] surrounds every request, [`send`] is the way of a lead.

pub mod answer;
pub mod api_keys;
pub mod audit;
pub mod auth;
pub mod batches;
pub mod bodies;
pub mod bulk;
pub mod callback_secret;
pub mod callbacks;
pub mod channels;
mod credential_rules;
pub mod credentials;
pub mod erasures;
pub mod error;
pub mod events;
pub mod fallbacks;
pub mod frame;
pub mod health;
pub mod inline;
pub mod input;
pub mod integrations;
pub mod leads;
pub mod limits;
pub mod list;
pub mod metrics;
pub mod notifications;
mod openapi;
pub mod preview;
pub mod projects;
pub mod retention;
mod rotation;
pub mod send;
mod server;
pub mod speed;
mod strict;
pub mod tasks;
pub mod timeline;
mod trail;
pub mod views;
mod wording;

#[cfg(test)]
mod tests;

pub use server::serve;

use axum::Router;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::app::App;

/// The routes with what they say of themselves.
fn api() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(routes!(leads::create, leads::list))
        .routes(routes!(leads::show))
        .routes(routes!(leads::resend))
        .routes(routes!(timeline::show))
        .routes(routes!(bulk::resend_leads))
        .routes(routes!(leads::send_batch))
        .routes(routes!(batches::list_batches))
        .routes(routes!(batches::show_batch))
        .routes(routes!(batches::cancel_batch))
        .routes(routes!(batches::list_deliveries))
        .routes(routes!(batches::show_delivery))
        .routes(routes!(batches::retry))
        .routes(routes!(batches::cancel))
        .routes(routes!(bulk::retry_deliveries))
        .routes(routes!(bulk::recover))
        .routes(routes!(bulk::cancel_queued))
        .routes(routes!(events::stream))
        .routes(routes!(events::socket))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::show))
        .routes(routes!(tasks::cancel))
        .routes(routes!(projects::create, projects::list))
        .routes(routes!(projects::show, projects::change))
        .routes(routes!(callback_secret::rotate))
        .routes(routes!(speed::show))
        .routes(routes!(credentials::create_in_project, credentials::list_of_project))
        .routes(routes!(credentials::create_in_entity, credentials::list_of_entity))
        .routes(routes!(credentials::show, credentials::replace, credentials::change, credentials::delete))
        .routes(routes!(credentials::check))
        .routes(routes!(preview::preview))
        .routes(routes!(credentials::pause))
        .routes(routes!(credentials::resume))
        .routes(routes!(api_keys::create, api_keys::list))
        .routes(routes!(api_keys::show, api_keys::revoke))
        .routes(routes!(rotation::rotate))
        .routes(routes!(audit::list))
        .routes(routes!(channels::list, channels::upload))
        .routes(routes!(channels::activate))
        .routes(routes!(channels::remove))
        .routes(routes!(retention::host))
        .routes(routes!(retention::project))
        .routes(routes!(erasures::create, erasures::list))
        .routes(routes!(erasures::show))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::show))
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = api().into_openapi();
    openapi::complete(&mut document);
    document
}

/// The whole HTTP interface: `/api/…`, `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, `/docs`.
pub fn router(app: App) -> Router {
    let (routes, mut document) = api().split_for_parts();
    openapi::complete(&mut document);
    // Without this word the page sends the document to a server on the internet to have it judged.
    let page = SwaggerUi::new("/docs").url("/openapi.json", document).config(utoipa_swagger_ui::Config::default().validator_url("none"));
    routes
        .merge(page)
        .fallback(|| async { axum::http::StatusCode::NOT_FOUND })
        .layer(axum::middleware::from_fn_with_state(app.clone(), frame::frame))
        .with_state(app)
}
