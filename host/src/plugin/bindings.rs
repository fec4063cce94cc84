//! The contract as Rust types, generated from `wit/1.0/channel.wit`.
//!
//! `outbound` is bound statically, because every channel has it. The optional interfaces are looked for by name on the
//! component's type (`inspect`), so that a plugin without them still links.
#![allow(missing_docs, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../wit/1.0",
    inline: "
        package leadwire:host;
        /// Everything the host offers; the only export that every channel has.
        world outbound-host {
            include leadwire:channel/channel@1.0.0;
            import leadwire:channel/secrets-reveal@1.0.0;
        }
    ",
    world: "leadwire:host/outbound-host",
    imports: {
        "leadwire:channel/http@1.0.0.send": async | trappable,
        "leadwire:channel/http@1.0.0.send-all": async | trappable,
        "leadwire:channel/kv@1.0.0.get": async | trappable,
        "leadwire:channel/kv@1.0.0.set": async | trappable,
        "leadwire:channel/kv@1.0.0.swap": async | trappable,
        "leadwire:channel/kv@1.0.0.delete": async | trappable,
        "leadwire:channel/mail@1.0.0.send": async | trappable,
        "leadwire:channel/mail@1.0.0.probe": async | trappable,
        "leadwire:channel/progress@1.0.0.checkpoint": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});

pub use self::leadwire::channel as wit;
pub use exports::leadwire::channel::outbound as wit_outbound;
