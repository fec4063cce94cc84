//! The way of up to fifty leads into the portal: look, make contacts, make records, each in as few batches as it takes.

use std::collections::BTreeMap;

use leadwire_sdk::{Context, Item, Stop, Verdict, log};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::{
    CONTACT_TYPE, Config, Contacts,
    command::Command,
    dictionary::Dictionary,
    fault::Fault,
    person,
    place::Place,
    portal::{Portal, Replies, batches},
    record::{self, Record},
    text,
    work::{State, Work},
};

/// A call of the plugin.
pub(crate) struct Run<'a> {
    ctx: &'a Context<Config>,
    portal: Portal<'a>,
    place: Place,
    known: Dictionary,
    works: Vec<Work<'a>>,
}

#[derive(Debug, Deserialize)]
struct Made {
    item: MadeItem,
}

#[derive(Debug, Deserialize)]
struct MadeItem {
    #[serde(deserialize_with = "id")]
    id: u64,
}

/// Some methods write numbers as texts.
fn id<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    crate::value::plain(&Value::deserialize(input)?).parse().map_err(serde::de::Error::custom)
}

impl<'a> Run<'a> {
    pub(crate) fn open(ctx: &'a Context<Config>, items: &'a [Item]) -> Result<Self, Stop> {
        let place = Place::of(&ctx.config)?;
        let works: Vec<Work<'_>> = items.iter().filter_map(|item| Work::open(ctx, item)).collect();
        let names: Vec<String> = works.iter().flat_map(|work| work.item.mapped().into_iter().map(|(name, _)| name)).collect();
        let known = Dictionary::open(ctx, names.iter());
        Ok(Self { ctx, portal: Portal::new(ctx), place, known, works })
    }

    pub(crate) fn go(mut self) -> Result<(), Stop> {
        self.look()?;
        self.make_contacts()?;
        // What an earlier delivery made may be gone; then it is made anew.
        self.write()?;
        self.write()?;
        self.portal.rest_if_tired()
    }

    /// One batch for everything that must be known before something is written.
    fn look(&mut self) -> Result<(), Stop> {
        let asks_place = self.place.commands(self.ctx);
        let place_asked = !asks_place.is_empty();
        let mut commands = self.known.commands();
        commands.extend(asks_place);
        for (at, work) in self.works.iter().enumerate() {
            commands.extend(work.questions(self.ctx, at));
        }
        if commands.is_empty() {
            return Ok(());
        }
        let replies = match self.portal.look(commands) {
            Ok(replies) => replies,
            Err(fault) => return self.give_up(fault.of_batch().unwritten()),
        };
        if place_asked {
            self.place.verify(self.ctx, &replies)?;
        }
        if let Err(fault) = self.known.take(self.ctx, &replies) {
            return self.give_up(fault.unwritten());
        }
        for at in 0..self.works.len() {
            if let Err(fault) = self.works[at].learn(self.ctx, at, &replies) {
                self.fail(at, fault.unwritten())?;
            }
        }
        self.look_for_notes()
    }

    /// Records that an earlier attempt made: the comment is made with the record, so it is nearly always there too.
    fn look_for_notes(&mut self) -> Result<(), Stop> {
        let entity = self.ctx.config.entity.word();
        let ask = |(at, work): (usize, &Work<'_>)| match work.state {
            State::Found { id, noted: false } if work.open => {
                let command = Command::new(format!("t{at}"), "crm.timeline.comment.list");
                Some(command.with("filter", json!({ "ENTITY_ID": id, "ENTITY_TYPE": entity })).with("select", json!(["ID"])))
            }
            _ => None,
        };
        let commands: Vec<Command> = self.works.iter().enumerate().filter_map(ask).collect();
        if commands.is_empty() {
            return Ok(());
        }
        let asked: Vec<(usize, String)> = named(&commands, 't');
        let replies = match self.portal.look(commands) {
            Ok(replies) => replies,
            Err(fault) => return self.give_up(fault.of_batch().unwritten()),
        };
        for (at, name) in asked {
            // When it cannot be told, a missing comment is the lesser evil.
            let noted = replies.get::<Vec<Value>>(&name).map_or(true, |comments| !comments.is_empty());
            if let State::Found { id, .. } = self.works[at].state {
                self.works[at].state = State::Found { id, noted };
            }
        }
        Ok(())
    }

    /// The contacts that were not found; leads of one person share one.
    fn make_contacts(&mut self) -> Result<(), Stop> {
        if self.ctx.config.contacts() != Contacts::Create {
            return Ok(());
        }
        self.find_leaders();
        let mut groups = Vec::new();
        for (at, work) in self.works.iter_mut().enumerate() {
            if work.wants_contact() && work.leader.is_none() {
                let Record { fields, left_out } = record::contact(self.ctx, work.item, work.lead, &self.known);
                work.left_out = left_out;
                groups.push(vec![
                    Command::new(format!("c{at}"), "crm.item.add")
                        .with("entityTypeId", CONTACT_TYPE)
                        .with("useOriginalUfNames", "Y")
                        .with("fields", fields),
                ]);
            }
        }
        for batch in batches(groups) {
            let replies = self.begin(&batch)?;
            let mut stop = Ok(());
            for (at, name) in named(&batch, 'c') {
                // What was made is noted before anything stops the call, or it would be made again.
                match replies.as_ref().map_err(Clone::clone).and_then(|replies| replies.get::<Made>(&name)) {
                    Ok(made) => self.works[at].has_contact(made.item.id),
                    // A person whom the portal does not take must not cost the lead.
                    Err(Fault::Refused { code, text }) if replies.is_ok() => {
                        log::warn(&format!("the portal refuses the contact ({code}), so the record goes without: {text}"));
                    }
                    Err(fault) => stop = stop.and(self.fail_with_followers(at, fault)),
                }
            }
            stop?;
            if let Err(fault) = replies {
                return self.give_up(fault.unwritten());
            }
        }
        for at in 0..self.works.len() {
            if let Some(contact) = self.works[at].leader.and_then(|leader| self.works[leader].contact) {
                self.works[at].has_contact(contact);
            }
        }
        Ok(())
    }

    /// The records that are still to be made or updated, each with its comment.
    fn write(&mut self) -> Result<(), Stop> {
        let mut groups = Vec::new();
        for at in 0..self.works.len() {
            match self.commands_of(at) {
                Ok(group) if group.is_empty() => self.already_there(at),
                Ok(group) => groups.push(group),
                Err(verdict) => self.works[at].settle(&verdict),
            }
        }
        for batch in batches(groups) {
            let replies = self.begin(&batch)?;
            let (mut stop, mut made) = (Ok(()), Vec::new());
            for (at, name) in named(&batch, 'd') {
                // Every command has its own fate: what was made is settled before anything stops the call.
                match replies.as_ref().map_err(Clone::clone).and_then(|replies| replies.get::<Made>(&name)) {
                    Ok(answer) => {
                        self.made(at, answer.item.id);
                        made.push(at);
                    }
                    Err(fault) => stop = stop.and(self.refused(at, fault)),
                }
            }
            for (at, name) in named(&batch, 'n') {
                let Ok(replies) = &replies else { continue };
                let there = matches!(self.works[at].state, State::Found { .. });
                if let Err(fault) = replies.get::<Value>(&name)
                    && (there || made.contains(&at))
                {
                    log::warn(&format!("the record is in the portal, its timeline comment is not: {}", fault.words()));
                }
                self.already_there(at);
            }
            stop?;
            if let Err(fault) = replies {
                return self.give_up(fault.unwritten());
            }
            self.portal.rest_if_tired()?;
        }
        Ok(())
    }

    /// Sends a batch that writes. Without enough time for it, what is left goes back to the queue, uncounted.
    fn begin(&self, batch: &[Command]) -> Result<Result<Replies, Fault>, Stop> {
        if !self.portal.has_time() {
            log::warn("the portal is slow: the rest goes with the next call");
            return Err(Stop::rate_limited(Some(1_000)));
        }
        Ok(self.portal.write(batch).map_err(Fault::of_batch))
    }

    fn commands_of(&mut self, at: usize) -> Result<Vec<Command>, Verdict> {
        let (ctx, entity) = (self.ctx, self.ctx.config.entity);
        let work = &self.works[at];
        if !work.open {
            return Ok(Vec::new());
        }
        let name = format!("d{at}");
        let (command, record) = match work.state {
            State::Found { noted: true, .. } => return Ok(Vec::new()),
            State::Found { .. } => (None, Record::default()),
            State::New => {
                let record = record::new(ctx, work.item, work.lead, &self.place, &self.known, work.contact);
                (Some(Command::new(name.clone(), "crm.item.add")), record)
            }
            State::Earlier(id) => {
                (Some(Command::new(name.clone(), "crm.item.update").with("id", id)), record::update(work.item, work.lead, &self.known))
            }
        };
        let mut group: Vec<Command> = Vec::new();
        if let Some(command) = command {
            group.push(command.with("entityTypeId", entity.type_id()).with("useOriginalUfNames", "Y").with("fields", record.fields));
        }
        if ctx.config.note {
            let left_out = [record.left_out, work.left_out.clone()].concat();
            let text = text::note(ctx, work.item, work.lead, &left_out)?;
            let note = Command::new(format!("n{at}"), "crm.timeline.comment.add");
            let note = match work.state {
                State::Found { id, .. } => note.with("fields[ENTITY_ID]", id),
                _ => note.with_result("fields[ENTITY_ID]", &[&name, "item", "id"]),
            };
            if !text.trim().is_empty() {
                group.push(note.with("fields[ENTITY_TYPE]", entity.word()).with("fields[COMMENT]", text));
            }
        }
        Ok(group)
    }

    fn made(&mut self, at: usize, id: u64) {
        let verdict = self.works[at].receipt(self.ctx, Verdict::delivered(), id);
        self.works[at].settle(&verdict);
    }

    /// Settles a record that an earlier attempt made.
    fn already_there(&mut self, at: usize) {
        if let State::Found { id, .. } = self.works[at].state {
            let verdict = self.works[at].receipt(self.ctx, Verdict::duplicate(), id);
            self.works[at].settle(&verdict);
        }
    }

    fn refused(&mut self, at: usize, fault: Fault) -> Result<(), Stop> {
        match (self.works[at].state, fault) {
            (State::Earlier(_), Fault::Missing(_)) => {
                self.works[at].state = State::New;
                Ok(())
            }
            (_, Fault::Refused { code, text }) => match self.place.blame(self.ctx, &text) {
                Some(stop) => Err(stop),
                None => self.fail(at, Fault::Refused { code, text }),
            },
            (_, fault) => self.fail(at, fault),
        }
    }

    /// One lead fails; `Err` when the reason is about more than that.
    fn fail(&mut self, at: usize, fault: Fault) -> Result<(), Stop> {
        let verdict = fault.verdict(Some(self.portal.operating_ms()))?;
        self.works[at].settle(&verdict);
        Ok(())
    }

    fn fail_with_followers(&mut self, at: usize, fault: Fault) -> Result<(), Stop> {
        let followers = (0..self.works.len()).filter(|other| self.works[*other].leader == Some(at));
        for follower in followers.collect::<Vec<_>>() {
            self.fail(follower, fault.clone().unwritten())?;
        }
        self.fail(at, fault)
    }

    /// Nothing more can be done in this call: every lead that is left fails with this.
    fn give_up(&mut self, fault: Fault) -> Result<(), Stop> {
        for at in 0..self.works.len() {
            if self.works[at].open {
                self.fail(at, fault.clone())?;
            }
        }
        Ok(())
    }

    /// Of the leads without a contact, the first of each person makes it.
    fn find_leaders(&mut self) {
        let mut first: BTreeMap<String, usize> = BTreeMap::new();
        for at in 0..self.works.len() {
            if !self.works[at].wants_contact() {
                continue;
            }
            let keys = person::keys(self.works[at].lead);
            let leader = keys.iter().find_map(|key| first.get(key).copied());
            self.works[at].leader = leader;
            for key in keys {
                first.entry(key).or_insert(leader.unwrap_or(at));
            }
        }
    }
}

/// Index and name of the commands that begin with this letter.
fn named(batch: &[Command], letter: char) -> Vec<(usize, String)> {
    let numbered = |command: &Command| Some((command.name.strip_prefix(letter)?.parse().ok()?, command.name.clone()));
    batch.iter().filter_map(numbered).collect()
}
