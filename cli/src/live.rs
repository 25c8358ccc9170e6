//! A run as it happens, for a terminal, for plain lines, for scripts.
//!
//! | Module | Holds |
//! |---|---|
//! | [`model`] | what is known of a run, fed by the frames of a watch |
//! | [`tree`] | the order and indentation of tasks by their dependencies |
//! | [`screen`] | the live view as lines; pure |
//! | [`redraw`] | putting lines on a terminal in place of the last ones |
//! | [`told`] | what happened as a plain line or as JSON; pure |
//!
//! Nothing here talks to a coordinator: [`crate::follow`] does.

pub(crate) mod model;
pub(crate) mod redraw;
pub(crate) mod screen;
pub(crate) mod told;
pub(crate) mod tree;
