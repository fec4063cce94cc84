//! Fake remote services that misbehave on demand: an HTTP sink, a Bot API, an SMTP receiver, an amoCRM account and a Bitrix24
//! portal.
//!
//! Each binds a free port of 127.0.0.1, keeps what it received, and ends when it is dropped. Each is
//! spoken to over a socket by hand-written protocol code on purpose: a real server library refuses to
//! close in mid-answer, to send the wrong length or to answer with rubbish, and that is what the tests
//! are about. Nothing here sleeps to wait for the tested program: waiting is by notification.
//! Start at [`HttpSink`], [`BotApi`], [`SmtpReceiver`], [`AmoCrm`] or [`BitrixPortal`].

pub mod amo;
mod answer;
pub mod bitrix;
pub mod board;
pub mod bot;
mod gate;
pub mod html;
mod journal;
pub mod mail;
mod sink;
pub mod smtp;
mod wire;

pub use amo::AmoCrm;
pub use answer::{Answer, Manner};
pub use bitrix::BitrixPortal;
pub use board::Board;
pub use bot::BotApi;
pub use gate::Gate;
pub use mail::ParsedMail;
pub use sink::HttpSink;
pub use smtp::SmtpReceiver;
pub use wire::Request;
