//! Generated from `wit/`. Not part of the SDK's promises; [`crate::export!`] needs to reach it.
#![allow(missing_docs, unsafe_code, clippy::all, clippy::unwrap_used, clippy::expect_used)]

// The optional import `secrets-reveal` is in the world too: an import that a plugin never calls is not in its component.
wit_bindgen::generate!({
    path: "../wit/1.0",
    inline: "
        package leadwire:sdk;
        world guest {
            include leadwire:channel/channel@1.0.0;
            import leadwire:channel/secrets-reveal@1.0.0;
        }
    ",
    world: "leadwire:sdk/guest",
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "leadwire_sdk::bindings",
    additional_derives: [PartialEq],
    generate_all,
});
