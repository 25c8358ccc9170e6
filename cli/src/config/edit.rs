//! Changes to the user's file: in place, as a whole or not at all, for nobody else to read, comments and order kept.
//! Knows how a file is changed; what may stand in it is [`super`]'s to say, and it is asked before anything is written.

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, value};

use super::{DEFAULTS, make_parent, parse, text};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::private_file::write_private;

/// The file with changes that were not written yet.
pub(crate) struct Edit {
    path: PathBuf,
    document: DocumentMut,
}

impl Edit {
    /// Opens the file, or begins one.
    ///
    /// # Errors
    /// A file that is not valid as it stands: what is broken is mended by hand.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        // A link stays one: what it points to is replaced.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let text = text(&path)?.unwrap_or_default();
        parse(&path, &text)?;
        let document = text.parse::<DocumentMut>().map_err(|error| {
            Failure::usage(format!("{} is not valid TOML", path.display())).cause(error.to_string().trim())
        })?;
        Ok(Self { path, document })
    }

    /// Sets a value; the tables around it come into being.
    pub(crate) fn set(&mut self, keys: &[&str], to: &str) -> Outcome<()> {
        let Some((last, tables)) = keys.split_last() else { return Ok(()) };
        let mut table: &mut Item = self.document.as_item_mut();
        for (depth, key) in tables.iter().enumerate() {
            let Some(inner) = table.as_table_like_mut() else { return Err(no_table(key)) };
            if !inner.contains_key(key) {
                let mut made = Table::new();
                // `[contexts]` alone says nothing when `[contexts.prod]` follows.
                made.set_implicit(depth + 1 < tables.len());
                inner.insert(key, Item::Table(made));
            }
            table = inner.get_mut(key).ok_or_else(|| no_table(key))?;
        }
        let inner = table.as_table_like_mut().ok_or_else(|| no_table(last))?;
        match inner.get_mut(last).and_then(Item::as_value_mut) {
            Some(old) => {
                // What stands around a value, such as a comment behind it, belongs to the person.
                let decor = old.decor().clone();
                *old = to.into();
                *old.decor_mut() = decor;
            }
            None => {
                inner.insert(last, value(to));
            }
        }
        Ok(())
    }

    /// Takes a value or a table away; says whether it was there.
    pub(crate) fn remove(&mut self, keys: &[&str]) -> bool {
        let Some((last, tables)) = keys.split_last() else { return false };
        let mut table: &mut Item = self.document.as_item_mut();
        for key in tables {
            match table.as_table_like_mut().and_then(|table| table.get_mut(key)) {
                Some(inner) => table = inner,
                None => return false,
            }
        }
        table.as_table_like_mut().is_some_and(|table| table.remove(last).is_some())
    }

    /// Writes the file, mode 0600.
    ///
    /// # Errors
    /// A change that would make the file invalid, or a file that cannot be written.
    pub(crate) fn save(self) -> Outcome<()> {
        let text = self.document.to_string();
        parse(&self.path, &text)?;
        make_parent(&self.path).map_err(|error| {
            Failure::new(exit::FAILED, format!("cannot make the directory of {}", self.path.display()))
                .cause(error)
        })?;
        write_private(&self.path, &text)
    }
}

fn no_table(key: &str) -> Failure {
    Failure::usage(format!("{key} is no table in the configuration file"))
}

/// The parts of a key as people write it: `current`, `defaults.output`, `contexts.NAME.endpoint`. A name of a context
/// may have dots.
///
/// # Errors
/// A key that no setting has.
pub(crate) fn key(text: &str) -> Outcome<Vec<&str>> {
    let unknown = || {
        let known = DEFAULTS.map(|name| format!("defaults.{name}"));
        let candidates = known.iter().map(String::as_str).chain(["current"]);
        let near = crate::suggest::did_you_mean(text, candidates);
        let failure = Failure::usage(format!("there is no setting {text:?}"));
        let failure = if near.is_empty() { failure } else { failure.help(near) };
        failure.and_help(format!(
            "there are current, {}, and contexts.NAME.{{endpoint,ca,cert,key,confirm}}",
            known.join(", ")
        ))
    };
    match text.split_once('.') {
        None if text == "current" => Ok(vec![text]),
        Some(("defaults", name)) if DEFAULTS.contains(&name) => Ok(vec!["defaults", name]),
        Some(("contexts", rest)) => match rest.rsplit_once('.') {
            Some((name, field)) if super::CONTEXT.contains(&field) && super::is_context_name(name) => {
                Ok(vec!["contexts", name, field])
            }
            Some(_) | None => Err(unknown()),
        },
        Some(_) | None => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const MINE: &str =
        "# mine\ncurrent = \"lab\" # for now\n\n[contexts.lab] # at home\nendpoint = \"lab:1\"\n";

    fn edited(text: &str, change: impl FnOnce(&mut Edit)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, text).unwrap();
        let mut edit = Edit::open(&path).unwrap();
        change(&mut edit);
        edit.save().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn a_change_keeps_comments_and_order() {
        let text = edited(MINE, |edit| {
            edit.set(&["current"], "prod").unwrap();
            edit.set(&["contexts", "prod", "endpoint"], "box:1").unwrap();
            edit.set(&["defaults", "output"], "wide").unwrap();
        });
        insta::assert_snapshot!(text, @r#"
        # mine
        current = "prod" # for now

        [contexts.lab] # at home
        endpoint = "lab:1"

        [contexts.prod]
        endpoint = "box:1"

        [defaults]
        output = "wide"
        "#);
    }

    #[test]
    fn a_context_goes_with_everything_in_it() {
        let text = edited(MINE, |edit| {
            assert!(edit.remove(&["contexts", "lab"]) && edit.remove(&["current"]));
            assert!(!edit.remove(&["contexts", "lab"]));
        });
        assert!(!text.contains("lab"), "{text}");
    }

    #[test]
    fn a_file_comes_into_being_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/config.toml");
        let mut edit = Edit::open(&path).unwrap();
        edit.set(&["contexts", "prod", "endpoint"], "box:1").unwrap();
        edit.save().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[contexts.prod]\nendpoint = \"box:1\"\n");
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn nothing_invalid_is_written_and_nothing_broken_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, MINE).unwrap();
        let mut edit = Edit::open(&path).unwrap();
        edit.set(&["defaults", "output"], "loud").unwrap();
        assert!(edit.save().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), MINE);
        fs::write(&path, "nonsense = 1").unwrap();
        assert!(Edit::open(&path).is_err());
    }

    #[test]
    fn a_link_is_followed_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.toml"), dir.path().join("config.toml"));
        fs::write(&real, MINE).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut edit = Edit::open(&link).unwrap();
        edit.set(&["defaults", "time"], "iso").unwrap();
        edit.save().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("iso"));
    }

    #[test]
    fn keys_are_checked_before_anything_is_opened() {
        assert_eq!(key("contexts.a.b.endpoint").unwrap(), ["contexts", "a.b", "endpoint"]);
        assert_eq!(key("defaults.time").unwrap(), ["defaults", "time"]);
        for bad in ["", "defaults", "defaults.nothing", "contexts.a", "contexts..ca", "current.x"] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        assert!(key("defaults.colour").unwrap_err().text(false).contains("did you mean \"defaults.color\"?"));
    }
}
