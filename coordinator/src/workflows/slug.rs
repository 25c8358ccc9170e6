//! Names of people and things as parts of ids and file names: [`orch_proto::slug`], which clients know too.

pub(super) use orch_proto::slug::{is_slug, slug};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_name_becomes_a_slug(name in any::<String>()) {
            prop_assert!(is_slug(&slug(&name)), "{:?} -> {:?}", name, slug(&name));
        }
    }
}
