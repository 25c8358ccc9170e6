//! Writes the generated code of `proto` into the tree.
//!
//! Knows where it goes. Refuses to know how it is made: the recipe is `proto/codegen.rs`, shared with the drift test.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};

#[path = "../../proto/codegen.rs"]
mod recipe;

/// Regenerates `proto/src/gen` below `root`, removing files that are no longer made. With `check` nothing is written,
/// and any difference is an error.
pub(crate) fn run(root: &Path, check: bool) -> anyhow::Result<()> {
    let proto = root.join("proto");
    let dir = proto.join("src/gen");
    // protox explains a syntax error over several lines in its Debug form; Display is only the headline.
    let generated = recipe::generate(&proto).map_err(|error| anyhow!("codegen: {error}\n{error:?}"))?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;

    let mut changed = Vec::new();
    for (name, bytes) in &generated {
        let path = dir.join(name);
        if fs::read(&path).is_ok_and(|old| old == *bytes) {
            continue;
        }
        changed.push(name.clone());
        if !check {
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    for entry in fs::read_dir(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if generated.contains_key(&name) {
            continue;
        }
        changed.push(format!("{name} (no longer made)"));
        if !check {
            fs::remove_file(entry.path())?;
        }
    }
    match (changed.is_empty(), check) {
        (true, _) => crate::say("codegen: proto/src/gen is up to date"),
        (false, false) => crate::say(&format!("codegen: wrote {}", changed.join(", "))),
        (false, true) => {
            bail!("codegen: out of date: {}; mend with: cargo xtask codegen", changed.join(", "))
        }
    }
    Ok(())
}
