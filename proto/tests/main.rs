//! Bytes: vectors, generated types and properties of decoders, as one program.

mod checkpoint_vectors;
mod descriptors;
mod encodings;
mod frame_properties;
mod frame_vectors;
mod golden;
mod mls_vectors;
mod odd_layers;
mod reject;
#[path = "../../tests/second/mod.rs"]
mod second;
mod wire;
