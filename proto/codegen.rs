//! The one recipe that turns `orch/**/*.proto` into Rust. `cargo xtask codegen` writes its result; the drift test of this
//! crate compares it. Both include this file by path, because the crate can depend on neither of them.
//!
//! Knows the settings. Refuses to write into the source tree: it answers with names and contents.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use protox::prost::Message as _;
use tonic_prost_build::Config;

/// The encoded descriptor set, with the comments of our own files, for reflection and for the style test.
pub(super) const DESCRIPTOR_FILE: &str = "orch.fds.bin";

/// Generates everything from the `.proto` files below `proto_root/orch`. The answer maps file names, to be placed in
/// `src/gen`, to contents; equal input gives equal bytes.
pub(super) fn generate(proto_root: &Path) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn Error>> {
    let mut sources = Vec::new();
    collect(&proto_root.join("orch"), &mut sources)?;
    sources.sort();

    let mut compiler = protox::Compiler::new([proto_root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&sources)?;
    let mut descriptors = compiler.file_descriptor_set();
    for file in descriptors.file.iter_mut().filter(|file| !file.package().starts_with("orch.")) {
        file.source_code_info = None;
    }

    let scratch = tempfile::tempdir()?;
    let encoded = descriptors.encode_to_vec();
    let mut config = Config::new();
    // Ordered maps, so that equal messages have equal bytes.
    config.btree_map(["."]);
    tonic_prost_build::configure()
        .out_dir(scratch.path())
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .codec_path("crate::codec::BoundedCodec")
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds_with_config(descriptors, config)?;

    let mut generated = BTreeMap::from([(DESCRIPTOR_FILE.to_owned(), encoded)]);
    for entry in fs::read_dir(scratch.path())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Imported packages come from prost-types; for them only empty files are made.
        if name.starts_with("orch.") {
            generated.insert(name, fs::read(&path)?);
        }
    }
    Ok(generated)
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}
