//! Generates Rust types and the descriptor set for reflection from the `.proto` files.
//!
//! The files are parsed in Rust, so building needs no `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use protox::Compiler;
use protox::prost::Message;
use tonic_prost_build::FileDescriptorSet;

const ROOT: &str = "proto";

/// Messages of streams and pages whose field `envelopes` becomes bytes. A nested message and bytes are the same on the
/// wire, so a node sends envelopes as they are stored, without decoding and encoding each for each of its readers. In
/// `SubscribeOriginatorsResponse` the whole list is bytes: a node makes it while it reads the log.
const WITH_ENVELOPES_AS_BYTES: [&str; 6] = [
    "QueryEnvelopesResponse",
    "SubscribeEnvelopesResponse",
    "SubscribeOriginatorsResponse",
    "SubscribeOriginatorsResponse.Envelopes",
    "SubscribeTopicsResponse.Envelopes",
    "SubscribeResponse.V1.Envelopes",
];
/// The number of the type `bytes` in a descriptor of a field.
const TYPE_BYTES: i32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={ROOT}"); // cargo walks a directory
    let mut files = Vec::new();
    collect(Path::new(ROOT), &mut files)?;
    files.sort(); // the output must not depend on the order of the directory

    let mut compiler = Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let mut set = compiler.file_descriptor_set();
    let mut generated = set.clone();
    carry_envelopes_as_bytes(&mut generated)?;
    generate(generated)?;

    for file in &mut set.file {
        file.source_code_info = None; // reflection serves no comments
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    Ok(())
}

/// Adds every `.proto` file below `dir`.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// Makes envelopes bytes in the messages of streams and pages.
fn carry_envelopes_as_bytes(set: &mut FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    const PACKAGE: &str = "xmtp.xmtpv4.message_api";
    let file = set.file.iter_mut().find(|file| file.package() == PACKAGE);
    let file = file.ok_or("there is no package of the message API")?;
    for path in WITH_ENVELOPES_AS_BYTES {
        let mut messages = &mut file.message_type;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            let message = messages.iter_mut().find(|message| message.name() == name);
            let message = message.ok_or_else(|| format!("there is no message {path}"))?;
            if names.peek().is_some() {
                messages = &mut message.nested_type;
                continue;
            }
            let field = message.field.iter_mut().find(|field| field.name() == "envelopes");
            let field = field.ok_or_else(|| format!("{path} has no envelopes"))?;
            (field.r#type, field.type_name) = (Some(TYPE_BYTES), None);
            break;
        }
    }
    Ok(())
}

/// Generates the types: `bytes` fields share the buffer they were read from, and maps are written in
/// ascending order. Stubs come with the feature `services` only, so that storage links no gRPC.
fn generate(set: FileDescriptorSet) -> io::Result<()> {
    let services = env::var_os("CARGO_FEATURE_SERVICES").is_some();
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names(); // gives each type its full name, which `pb::to_json` takes
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .build_transport(false)
        .codec_path("crate::codec::BoundedCodec")
        .bytes(".")
        .btree_map(".")
        .include_file("pb.rs")
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(set, config)
}
