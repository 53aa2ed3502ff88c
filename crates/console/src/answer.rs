//! What a page answers.

use maud::Markup;
use tollgate_core::Error;
use tollgate_core::secret::Secret;

/// A page within the frame that all have.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) title: String,
    pub(crate) body: Markup,
}

pub(crate) enum Answer {
    Page(Page),
    /// For whoever is not signed in.
    Bare(Page),
    /// A piece of a page, for the script.
    Fragment(Markup),
    /// Go to the provider of identities, and keep what it is asked until it answers.
    ToProvider {
        url: String,
        pending: Secret,
        next: String,
    },
    /// Go there now.
    See(String),
    SignedIn {
        token: Secret,
        next: String,
    },
    SignedOut,
    File {
        name: String,
        kind: &'static str,
        body: Vec<u8>,
    },
}

impl Answer {
    pub(crate) fn page(title: impl Into<String>, body: Markup) -> Self {
        Self::Page(Page { status: 200, title: title.into(), body })
    }

    pub(crate) fn bare(title: impl Into<String>, body: Markup) -> Self {
        Self::Bare(Page { status: 200, title: title.into(), body })
    }

    pub(crate) fn see(path: impl Into<String>) -> Self {
        Self::See(path.into())
    }

    /// With the status of what went wrong in it, if something did.
    pub(crate) fn because(mut self, error: Option<&Error>) -> Self {
        if let (Some(error), Self::Page(page) | Self::Bare(page)) = (error, &mut self) {
            page.status = error.status();
        }
        self
    }
}
