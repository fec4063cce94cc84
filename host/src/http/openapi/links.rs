//! Links: which answer's id leads to which operations. A new operation under one of the addresses is linked by itself.

use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{OpenApi, RefOr};

/// The address of the thing, the operations that tell its id, and where in their answers.
const LINKS: [(&str, &[&str], &str); 9] = [
    ("/api/projects/{id}", &["post_projects"], "/id"),
    ("/api/keys/{id}", &["post_keys", "post_keys_id_rotate"], "/id"),
    ("/api/credentials/{id}", &["post_projects_id_credentials", "post_entities_external_id_credentials"], "/id"),
    ("/api/leads/{id}", &["post_leads", "post_integrations_send_batch", "post_leads_id_resend"], "/lead_id"),
    ("/api/batches/{id}", &["post_leads", "post_integrations_send_batch", "post_leads_id_resend"], "/batch_id"),
    ("/api/deliveries/{id}", &["post_leads", "post_integrations_send_batch", "post_leads_id_resend"], "/deliveries/0/id"),
    ("/api/tasks/{id}", &TASKS, "/task_id"),
    ("/api/deliveries/{id}", &["get_deliveries"], "/data/0/id"),
    ("/api/erasures/{id}", &["post_erasures"], "/id"),
];

const TASKS: [&str; 4] = ["post_leads_resend", "post_deliveries_retry", "post_credentials_id_recover", "post_credentials_id_cancel"];

/// Whether this success has the id: without work to do there is no task.
fn tells(status: &str, address: &str) -> bool {
    status.starts_with('2') && (status == "202" || !address.starts_with("/api/tasks/"))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete].into_iter().flatten()
}

/// Adds them to the successful answers.
pub fn add(document: &mut OpenApi) {
    for (address, from, pointer) in LINKS {
        let below = |path: &String| path.strip_prefix(address).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let items = document.paths.paths.iter_mut().filter(|(path, _)| below(path));
        let targets: Vec<String> = items.flat_map(|(_, item)| operations(item)).filter_map(|target| target.operation_id.clone()).collect();
        let sources = document.paths.paths.values_mut().flat_map(operations);
        for source in sources.filter(|source| source.operation_id.as_deref().is_some_and(|id| from.contains(&id))) {
            let answers = source.responses.responses.iter_mut().filter(|(status, _)| tells(status, address));
            for answer in answers.filter_map(|(_, answer)| if let RefOr::T(answer) = answer { Some(answer) } else { None }) {
                for target in &targets {
                    let link = LinkBuilder::new().operation_id(target).parameter("id", format!("$response.body#{pointer}")).build();
                    answer.links.insert(target.clone(), link.into());
                }
            }
        }
    }
}
