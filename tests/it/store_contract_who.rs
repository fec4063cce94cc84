//! What every `Store` must do for keys and the audit log: an act and its line are there together, or neither.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use leadwire::model::*;
use leadwire::store::*;
use serde_json::json;

use super::store_contract::*;

fn key(n: u8, project: Option<ProjectId>) -> ApiKey {
    ApiKey {
        id: KeyId::new(at(i64::from(n))),
        name: "site".to_owned(),
        hash: [n; 32],
        hint: "lw_abcd".to_owned(),
        scopes: vec![Scope::LeadsWrite],
        project,
        rate: Some(RateLimit { per_sec: 5, burst: 100_000 }),
        rotated_from: None,
        replaced_by: None,
        created_at: at(0),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    }
}

fn line(action: AuditAction, object: impl ToString, ms: i64) -> AuditLine {
    let change = AuditChange { field: "/name".to_owned(), before: None, after: Some(json!({"a": [1.5, null], "ж": "🙂"})) };
    AuditLine {
        id: AuditId::new(at(ms)),
        at: at(ms),
        project: None,
        actor: None,
        actor_name: "Админ".to_owned(),
        peer: Some("2001:db8::1".to_owned()),
        node: "node-1".to_owned(),
        request_id: "0197-correlation".to_owned(),
        action,
        object: object.to_string(),
        changes: vec![change],
    }
}

async fn lines(store: &dyn Store, query: AuditQuery) -> Vec<AuditLine> {
    let limit = 200;
    store.audit_lines(&AuditQuery { limit, ..query }).await.unwrap().items
}

async fn done(store: &dyn Store, act: Act, line: &AuditLine) -> Option<Acted> {
    match store.act(act, line, None).await.unwrap() {
        None => None,
        Some(Written::New(acted)) => Some(acted),
        Some(other) => panic!("{other:?}"),
    }
}

async fn an_act_and_its_line_are_written_together_or_not_at_all(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let shop = project("shop");
    let made = AuditLine { project: Some(shop.id), actor: Some(KeyId::new(at(0))), ..line(AuditAction::ProjectCreate, shop.id, 1) };
    assert!(done(&*store, Act::CreateProject(Box::new(shop.clone())), &made).await.is_some());
    assert_eq!(store.project(shop.id).await.unwrap().as_ref(), Some(&shop));
    let taken = store.act(Act::CreateProject(Box::new(project("shop"))), &line(AuditAction::ProjectCreate, "x", 2), None).await;
    assert!(matches!(taken, Err(StoreError::Taken { .. })), "{taken:?}");

    let renamed = Project { name: "New".to_owned(), updated_at: at(5), ..shop.clone() };
    let update = |read_at| Act::UpdateProject { project: Box::new(renamed.clone()), read_at };
    let changed = line(AuditAction::ProjectUpdate, shop.id, 3);
    assert!(done(&*store, update(at(0)), &changed).await.is_some());
    let stale = store.act(update(at(0)), &line(AuditAction::ProjectUpdate, shop.id, 4), None).await;
    assert!(matches!(stale, Err(StoreError::Stale)), "{stale:?}");
    assert_eq!(store.project(shop.id).await.unwrap().as_ref(), Some(&renamed));

    let hook = credential(shop.id);
    let hooked = line(AuditAction::CredentialCreate, hook.id, 6);
    done(&*store, Act::CreateCredential(Box::new(hook.clone())), &hooked).await.unwrap();
    let stale = Credential { version: 9, ..hook.clone() };
    let refused = store.act(Act::UpdateCredential(Box::new(stale)), &line(AuditAction::CredentialUpdate, hook.id, 7), None).await;
    assert!(matches!(refused, Err(StoreError::Stale)), "{refused:?}");
    let reason = Some(StateReason { code: "paused_by_admin".to_owned(), message: "x".to_owned() });
    let pause = Act::SetCredentialState { id: hook.id, state: CredentialState::Paused, reason, since: at(8) };
    let paused = line(AuditAction::CredentialPause, hook.id, 8);
    done(&*store, pause, &paused).await.unwrap();
    assert_eq!(store.credential(hook.id).await.unwrap().unwrap().state, CredentialState::Paused);
    let secrets = (Box::new(CallbackSecrets::default()), Box::new(CallbackSecrets::default()));
    let other = Act::SetCallbackSecrets { project: project_id(), read: secrets.0, new: secrets.1 };
    assert_eq!(done(&*store, other, &line(AuditAction::CallbackSecretRotate, "x", 9)).await, None);
    let uploaded = line(AuditAction::ChannelUpload, "webhook@1.0.0", 10);
    done(&*store, Act::Elsewhere, &uploaded).await.unwrap();

    assert_eq!(lines(&*store, AuditQuery::default()).await, [uploaded, paused, hooked, changed, made]);
}

async fn what_a_delete_or_cancel_changed_is_told_with_its_line(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (shop, lanes) = (project("shop"), lanes(1));
    store.create_project(&shop, None).await.unwrap();
    let hook = Credential { id: lanes[0], ..credential(shop.id) };
    store.create_credential(&hook, None).await.unwrap();
    let sent: Vec<Intake> = (0..3).map(|_| intake(shop.id, &lanes, at(0))).collect();
    let ids: Vec<_> = sent.iter().map(|intake| (intake.batch, intake.deliveries[0].id)).collect();
    for intake in sent {
        accept(&*store, intake).await;
    }
    let now = at(5);
    let cancelled = done(&*store, Act::CancelDelivery { id: ids[0].1, now }, &line(AuditAction::DeliveryCancel, ids[0].1, 5)).await;
    assert_eq!(cancelled.unwrap().changed[0].batch, ids[0].0);
    let again = done(&*store, Act::CancelDelivery { id: ids[0].1, now }, &line(AuditAction::DeliveryCancel, ids[0].1, 6)).await;
    assert_eq!(again, None);
    let retried = done(&*store, Act::RetryDelivery { id: ids[0].1, now }, &line(AuditAction::DeliveryRetry, ids[0].1, 7)).await;
    assert!(retried.is_some());
    assert_eq!(status(&*store, ids[0].1).await, DeliveryStatus::Queued);
    let batch = done(&*store, Act::CancelBatch { id: ids[1].0, now }, &line(AuditAction::BatchCancel, ids[1].0, 8)).await.unwrap();
    assert_eq!((batch.cancelled, batch.changed.len()), (1, 1));
    let deleted = done(&*store, Act::DeleteCredential { id: hook.id, now }, &line(AuditAction::CredentialDelete, hook.id, 9)).await;
    let mut batches: Vec<_> = deleted.unwrap().changed.iter().map(|changed| changed.batch).collect();
    batches.sort();
    let mut expected = vec![ids[0].0, ids[2].0];
    expected.sort();
    assert_eq!(batches, expected);
    assert!(store.credential(hook.id).await.unwrap().is_none());
    let gone = done(&*store, Act::DeleteCredential { id: hook.id, now }, &line(AuditAction::CredentialDelete, hook.id, 10)).await;
    assert_eq!(gone, None);
    let told: Vec<_> = lines(&*store, AuditQuery::default()).await.iter().map(|line| line.action).collect();
    let expected = [AuditAction::CredentialDelete, AuditAction::BatchCancel, AuditAction::DeliveryRetry, AuditAction::DeliveryCancel];
    assert_eq!(told, expected);
}

async fn the_same_request_is_one_act_and_one_line(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let keep =
        (Idempotency { scope: [1; 32], body_hash: [1; 32], expires_at: at(100) }, StoredAnswer { status: 201, body: b"{}".to_vec() });
    let act = |n| Act::CreateKey(Box::new(key(n, None)));
    let made = line(AuditAction::KeyCreate, "key", 1);
    let first = store.act(act(1), &made, Some(keep.clone())).await.unwrap();
    assert_eq!(first, Some(Written::New(Acted::default())));
    let second = store.act(act(2), &line(AuditAction::KeyCreate, "key", 2), Some(keep.clone())).await.unwrap();
    assert_eq!(second, Some(Written::Replayed(keep.1.clone())));
    let other = (Idempotency { body_hash: [2; 32], ..keep.0 }, keep.1);
    assert_eq!(store.act(act(3), &line(AuditAction::KeyCreate, "key", 3), Some(other)).await.unwrap(), Some(Written::KeyReused));
    assert_eq!(lines(&*store, AuditQuery::default()).await, [made]);
    let kept = store.keys(None, None, 10).await.unwrap().items;
    assert_eq!(kept.iter().map(|key| key.hash).collect::<Vec<_>>(), [[1; 32]]);
}

async fn a_key_is_replaced_once_and_ends_no_later_than_before(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let mine = Some(project_id());
    let (old, ending) = (key(1, mine), ApiKey { expires_at: Some(at(500)), ..key(2, mine) });
    for key in [&old, &ending] {
        store.create_key(key, None).await.unwrap();
    }
    let rotate = async |from: &ApiKey, new: &ApiKey, until, now| {
        let act = Act::RotateKey { old: from.id, until: at(until), now: at(now), new: Box::new(new.clone()) };
        done(&*store, act, &line(AuditAction::KeyRotate, from.id, now)).await.is_some()
    };
    let heir = |n, from: &ApiKey| ApiKey { rotated_from: Some(from.id), ..key(n, mine) };
    let (first, second, third) = (heir(3, &old), heir(4, &old), heir(5, &ending));
    assert!(rotate(&old, &first, 1_000, 10).await);
    assert!(!rotate(&old, &second, 1_000, 11).await, "it has an heir");
    assert!(store.key_by_hash(&[4; 32]).await.unwrap().is_none());
    let replaced = ApiKey { replaced_by: Some(first.id), expires_at: Some(at(1_000)), ..old.clone() };
    assert_eq!(store.key(old.id).await.unwrap(), Some(replaced));
    assert_eq!(store.key_by_hash(&[3; 32]).await.unwrap().as_ref(), Some(&first));

    assert!(!rotate(&ending, &third, 1_000, 500).await, "it has expired");
    assert!(rotate(&ending, &third, 1_000, 499).await);
    assert_eq!(store.key(ending.id).await.unwrap().unwrap().expires_at, Some(at(500)));
    assert!(store.revoke_key(third.id, at(600)).await.unwrap());
    assert!(!rotate(&third, &heir(6, &third), 1_000, 601).await, "it is revoked");
    assert!(!rotate(&key(9, mine), &heir(7, &old), 1_000, 601).await, "there is no such key");
    assert_eq!(lines(&*store, AuditQuery::default()).await.len(), 2);
}

async fn lines_are_listed_by_every_condition_in_pages_and_pruned(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let (shop, actor) = (project_id(), KeyId::new(at(0)));
    let mut all = Vec::new();
    for n in 0..700 {
        let action = if n % 7 == 0 { AuditAction::KeyCreate } else { AuditAction::TaskCancel };
        let mut one = line(action, format!("object-{}", n % 5), n);
        one.project = (n % 2 == 0).then_some(shop);
        one.actor = (n % 3 == 0).then_some(actor);
        done(&*store, Act::Elsewhere, &one).await.unwrap();
        all.push(one);
    }
    all.reverse();
    let cases = [
        AuditQuery::default(),
        AuditQuery { project: Some(shop), ..AuditQuery::default() },
        AuditQuery { actor: Some(actor), ..AuditQuery::default() },
        AuditQuery { action: Some(AuditAction::KeyCreate), ..AuditQuery::default() },
        AuditQuery { object: Some("object-3".to_owned()), project: Some(shop), ..AuditQuery::default() },
        AuditQuery { project: Some(shop), actor: Some(actor), action: Some(AuditAction::KeyCreate), ..AuditQuery::default() },
        AuditQuery { after: Some(at(100)), before: Some(at(650)), project: Some(shop), ..AuditQuery::default() },
        AuditQuery { object: Some("nothing".to_owned()), ..AuditQuery::default() },
    ];
    for case in cases {
        let fits = |line: &&AuditLine| {
            case.project.is_none_or(|project| line.project == Some(project))
                && case.actor.is_none_or(|actor| line.actor == Some(actor))
                && case.action.is_none_or(|action| line.action == action)
                && case.object.as_ref().is_none_or(|object| line.object == *object)
                && case.after.is_none_or(|after| line.at >= after)
                && case.before.is_none_or(|before| line.at < before)
        };
        let expected: Vec<_> = all.iter().filter(fits).cloned().collect();
        let (mut seen, mut below, mut pages) = (Vec::new(), None, 0);
        loop {
            let found = store.audit_lines(&AuditQuery { below, limit: 30, ..case.clone() }).await.unwrap();
            assert!(found.items.len() <= 30);
            seen.extend(found.items);
            pages += 1;
            match found.next {
                Some(next) => below = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, expected, "{case:?}");
        assert!(pages <= expected.len() / 30 + 2, "{pages} pages for {} lines", expected.len());
    }
    assert_eq!(store.prune_audit(at(50), 40).await.unwrap(), 40);
    assert_eq!(store.prune_audit(at(50), 40).await.unwrap(), 10);
    assert_eq!(store.prune_audit(at(50), 40).await.unwrap(), 0);
    let oldest = store.audit_lines(&AuditQuery { before: Some(at(51)), limit: 10, ..AuditQuery::default() }).await.unwrap();
    assert_eq!(oldest.items, [all[all.len() - 51].clone()]);
}

macro_rules! contract {
    ($($behaviour:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(&super::Sqlite::new()).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(&super::Postgres::new().await).await;
                }
            )+
        }
    };
}

contract!(
    an_act_and_its_line_are_written_together_or_not_at_all,
    what_a_delete_or_cancel_changed_is_told_with_its_line,
    the_same_request_is_one_act_and_one_line,
    a_key_is_replaced_once_and_ends_no_later_than_before,
    lines_are_listed_by_every_condition_in_pages_and_pruned,
);
