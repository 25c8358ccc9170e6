//! Pages: sizes and tokens. A token says where a list goes on and for which list it was made.
//! Knows text; refuses to know what is listed. A token is a place, not a right: tenants are checked elsewhere.

use crate::rpc::status::{refuse, refuse_field};
use orch_proto::codes::ErrorCode;
use tonic::Status;

/// Entries of a page when the caller does not care.
const DEFAULT_PAGE: usize = 50;
/// Most entries of a page; larger wishes are cut to it.
const MAX_PAGE: usize = 1_000;

/// The number of entries to return.
///
/// # Errors
/// `INVALID_FIELD` for a negative size.
pub fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT_PAGE),
        Ok(size) => Ok(size.min(MAX_PAGE)),
        Err(_) => Err(refuse_field(ErrorCode::InvalidField, "page_size", "is negative")),
    }
}

fn invalid() -> Status {
    refuse(ErrorCode::InvalidPageToken, "the page token was not handed out for this list")
}

/// Tokens of lists in order of name.
#[derive(Debug)]
pub struct NamePage;

impl NamePage {
    /// The token to go on after `last`; empty at the end.
    #[must_use]
    pub fn token(list: &str, last: Option<&str>) -> String {
        last.map_or_else(String::new, |last| hex::encode(format!("{list}>{last}")))
    }

    /// The name to go on after.
    ///
    /// # Errors
    /// `INVALID_PAGE_TOKEN`.
    pub fn parse(list: &str, token: &str) -> Result<Option<String>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let text =
            hex::decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(invalid)?;
        let (made_for, name) = text.split_once('>').ok_or_else(invalid)?;
        if made_for == list { Ok(Some(name.to_owned())) } else { Err(invalid()) }
    }
}

/// Tokens of lists in order of number.
#[derive(Debug)]
pub struct NumberPage;

impl NumberPage {
    /// The token to go on at `next`; empty at the end.
    #[must_use]
    pub fn token(list: &str, next: Option<u64>) -> String {
        NamePage::token(list, next.map(|next| next.to_string()).as_deref())
    }

    /// The number to go on at.
    ///
    /// # Errors
    /// `INVALID_PAGE_TOKEN`.
    pub fn parse(list: &str, token: &str) -> Result<Option<u64>, Status> {
        NamePage::parse(list, token)?.map(|text| text.parse().map_err(|_| invalid())).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_default_and_a_limit() {
        assert_eq!(page_size(0).unwrap(), DEFAULT_PAGE);
        assert_eq!(page_size(7).unwrap(), 7);
        assert_eq!(page_size(i32::MAX).unwrap(), MAX_PAGE);
        assert_eq!(page_size(-1).unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn a_token_serves_its_own_list_only() {
        let token = NamePage::token("agents", Some("box>1"));
        assert_eq!(NamePage::parse("agents", &token).unwrap().as_deref(), Some("box>1"));
        assert!(NamePage::parse("workers", &token).is_err());
        assert_eq!(NamePage::parse("agents", "").unwrap(), None);
        assert_eq!(NumberPage::parse("runs", &NumberPage::token("runs", Some(9))).unwrap(), Some(9));
        for junk in ["zz", "00", &hex::encode("runs>x"), &hex::encode("no mark")] {
            assert!(NumberPage::parse("runs", junk).is_err(), "{junk}");
        }
    }
}
