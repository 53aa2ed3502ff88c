//! Forms: fields that keep what was typed and have the message of an error under them.

use maud::{Markup, html};
use tollgate_core::Error;

use crate::form::Form;

/// The fields of one form.
pub(crate) struct Fields<'a> {
    typed: &'a Form,
    error: Option<&'a Error>,
}

impl<'a> Fields<'a> {
    pub(crate) const fn new(typed: &'a Form, error: Option<&'a Error>) -> Self {
        Self { typed, error }
    }

    pub(crate) const fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// What went wrong, at the top of the form, where screen readers begin.
    pub(crate) fn alert(&self) -> Markup {
        html! {
            @if let Some(error) = self.error {
                div.alert role="alert" { (error.message) }
            }
        }
    }

    /// What is in a field: what was typed, or else what there is.
    fn value<'v>(&'v self, name: &str, usual: &'v str) -> &'v str {
        self.typed.get(name).unwrap_or(usual)
    }

    fn is_wrong(&self, name: &str) -> bool {
        let param = self.error.and_then(|error| error.param.as_deref());
        param.is_some_and(|param| param.split(['.', '[']).next() == Some(name))
    }

    fn message(&self, name: &str) -> Markup {
        html! {
            @if let Some(error) = self.error.filter(|_| self.is_wrong(name)) {
                p.wrong id=(format!("{name}-error")) { (error.message) }
            }
        }
    }

    fn described(&self, name: &str, hint: &str) -> Option<String> {
        let wrong = self.is_wrong(name).then(|| format!("{name}-error"));
        let hint = (!hint.is_empty()).then(|| format!("{name}-hint"));
        let ids: Vec<String> = wrong.into_iter().chain(hint).collect();
        (!ids.is_empty()).then(|| ids.join(" "))
    }

    fn frame(&self, name: &str, label: &str, hint: &str, input: &Markup) -> Markup {
        html! {
            div.field {
                label for=(name) { (label) }
                (input)
                @if !hint.is_empty() { p.hint id=(format!("{name}-hint")) { (hint) } }
                (self.message(name))
            }
        }
    }

    fn input(
        &self,
        kind: &str,
        name: &str,
        label: &str,
        hint: &str,
        usual: &str,
        is_required: bool,
    ) -> Markup {
        let input = html! {
            input id=(name) name=(name) type=(kind) value=(self.value(name, usual)) required[is_required]
                aria-invalid[self.is_wrong(name)] aria-describedby=[self.described(name, hint)]
                autocomplete="off";
        };
        self.frame(name, label, hint, &input)
    }

    pub(crate) fn text(&self, name: &str, label: &str, hint: &str, usual: &str) -> Markup {
        self.input("text", name, label, hint, usual, false)
    }

    pub(crate) fn required(&self, name: &str, label: &str, hint: &str, usual: &str) -> Markup {
        self.input("text", name, label, hint, usual, true)
    }

    /// A field of a kind of HTML's, such as `email`, `number` or `url`.
    pub(crate) fn of_kind(&self, kind: &str, name: &str, label: &str, hint: &str, usual: &str) -> Markup {
        self.input(kind, name, label, hint, usual, false)
    }

    /// What is never shown again, not even after an error.
    pub(crate) fn secret(&self, name: &str, label: &str, hint: &str, autocomplete: &str) -> Markup {
        let input = html! {
            input id=(name) name=(name) type="password" autocomplete=(autocomplete)
                aria-invalid[self.is_wrong(name)] aria-describedby=[self.described(name, hint)];
        };
        self.frame(name, label, hint, &input)
    }

    pub(crate) fn area(&self, name: &str, label: &str, hint: &str, usual: &str) -> Markup {
        let input = html! {
            textarea id=(name) name=(name) rows="3" aria-invalid[self.is_wrong(name)]
                aria-describedby=[self.described(name, hint)] { (self.value(name, usual)) }
        };
        self.frame(name, label, hint, &input)
    }

    /// One of several, each as its value and what it is called.
    pub(crate) fn choice(
        &self,
        name: &str,
        label: &str,
        hint: &str,
        options: &[(&str, &str)],
        usual: &str,
    ) -> Markup {
        let chosen = self.value(name, usual);
        let input = html! {
            select id=(name) name=(name) aria-invalid[self.is_wrong(name)]
                aria-describedby=[self.described(name, hint)] {
                @for (value, called) in options {
                    option value=(value) selected[*value == chosen] { (called) }
                }
            }
        };
        self.frame(name, label, hint, &input)
    }

    /// Any of several.
    pub(crate) fn several(
        &self,
        name: &str,
        legend: &str,
        hint: &str,
        options: &[(&str, &str)],
        usual: &[&str],
    ) -> Markup {
        let was_sent = self.typed.has("form_token");
        let is_chosen = |value: &str| {
            if was_sent { self.typed.all(name).any(|typed| typed == value) } else { usual.contains(&value) }
        };
        html! {
            fieldset.field {
                legend { (legend) }
                @if !hint.is_empty() { p.hint { (hint) } }
                @for (value, called) in options {
                    label.check {
                        input type="checkbox" name=(name) value=(value) checked[is_chosen(value)];
                        " " (called)
                    }
                }
                (self.message(name))
            }
        }
    }
}
