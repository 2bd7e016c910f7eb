//! Who may read a route's answers across origins (Fetch Standard, section 3.2, "CORS protocol").

use std::time::Duration;

/// The origins that may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All of them; never together with credentials.
    Any,
    /// These, as browsers send them.
    These(Vec<Box<str>>),
}

/// See the module's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// The origins that may read.
    pub origins: Origins,
    /// Cookies and the like may come along.
    pub credentials: bool,
    /// Request fields that may be sent; where there are none, those that are asked for.
    pub headers: Vec<Box<str>>,
    /// Response fields that may be read beside the usual ones.
    pub expose: Vec<Box<str>>,
    /// How long a browser may remember a preflight.
    pub max_age: Duration,
}

/// Fields of an answer.
pub type Fields = Vec<(&'static str, String)>;

impl Cors {
    /// Checks an origin of the configuration.
    ///
    /// # Errors
    /// It is none.
    pub fn check_origin(origin: &str) -> Result<(), String> {
        let mend = "write e.g. \"https://app.example.com\", or \"*\" alone for all";
        let Some((scheme, host)) = origin.split_once("://") else {
            return Err(format!("{origin:?} is no origin; {mend}"));
        };
        let fits = |c: char| c.is_ascii_graphic() && !"/?#@".contains(c) && !c.is_ascii_uppercase();
        if scheme.is_empty() || host.is_empty() || !host.chars().all(fits) {
            return Err(format!("{origin:?} is no origin as browsers send it; {mend}"));
        }
        Ok(())
    }

    /// The same for a route whose clients come back: they say what they have, and are told what
    /// that is called.
    #[must_use]
    pub fn for_coming_back(mut self) -> Self {
        let add = |names: &mut Vec<Box<str>>, name: &str| {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.into());
            }
        };
        if !self.headers.is_empty() {
            add(&mut self.headers, "Last-Event-ID");
        }
        add(&mut self.expose, "X-Stream-Id");
        self
    }

    fn allows(&self, origin: &str) -> Option<String> {
        match &self.origins {
            Origins::Any => Some("*".to_owned()),
            Origins::These(these) => {
                these.iter().find(|own| ***own == *origin).map(|own| own.to_string())
            }
        }
    }

    /// The fields of any answer to a request from `origin`.
    pub fn answer(&self, origin: Option<&str>) -> Fields {
        let mut fields = Fields::new();
        if matches!(self.origins, Origins::These(_)) {
            // Also where the request had none: a cache may give this answer to one that has.
            fields.push(("Vary", "Origin".to_owned()));
        }
        let Some(allowed) = origin.and_then(|origin| self.allows(origin)) else { return fields };
        fields.push(("Access-Control-Allow-Origin", allowed));
        if self.credentials {
            fields.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
        if !self.expose.is_empty() {
            fields.push(("Access-Control-Expose-Headers", self.expose.join(", ")));
        }
        fields
    }

    /// The fields of the answer to a preflight that asks for `method` and `headers`; `methods` are
    /// the route's, none for any.
    pub fn preflight(
        &self,
        origin: &str,
        method: &str,
        headers: Option<&str>,
        methods: &[Box<str>],
    ) -> Fields {
        let mut vary =
            String::from("Access-Control-Request-Method, Access-Control-Request-Headers");
        if matches!(self.origins, Origins::These(_)) {
            vary.insert_str(0, "Origin, ");
        }
        let mut fields = vec![("Vary", vary)];
        let Some(allowed) = self.allows(origin) else { return fields };
        fields.push(("Access-Control-Allow-Origin", allowed));
        if self.credentials {
            fields.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
        let methods = if methods.is_empty() { method.to_owned() } else { methods.join(", ") };
        fields.push(("Access-Control-Allow-Methods", methods));
        let token = |c: char| c.is_ascii_alphanumeric() || "-_!#$%&'*+.^`|~, ".contains(c);
        let asked = headers.filter(|asked| asked.chars().all(token));
        match asked {
            _ if !self.headers.is_empty() => {
                fields.push(("Access-Control-Allow-Headers", self.headers.join(", ")));
            }
            Some(asked) => fields.push(("Access-Control-Allow-Headers", asked.to_owned())),
            None => {}
        }
        fields.push(("Access-Control-Max-Age", self.max_age.as_secs().to_string()));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: Origins, credentials: bool) -> Cors {
        let (headers, expose) = (Vec::new(), vec!["X-Request-Id".into()]);
        Cors { origins, credentials, headers, expose, max_age: Duration::from_secs(600) }
    }

    fn shown(fields: &Fields) -> Vec<String> {
        fields.iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn an_origin_of_the_list_is_named_and_others_are_not() {
        let these = cors(Origins::These(vec!["https://a.example".into()]), true);
        assert_eq!(
            shown(&these.answer(Some("https://a.example"))),
            [
                "Vary: Origin",
                "Access-Control-Allow-Origin: https://a.example",
                "Access-Control-Allow-Credentials: true",
                "Access-Control-Expose-Headers: X-Request-Id",
            ]
        );
        for other in [Some("https://b.example"), Some("null"), Some("https://a.example.evil"), None]
        {
            assert_eq!(shown(&these.answer(other)), ["Vary: Origin"], "{other:?}");
        }
        let any = cors(Origins::Any, false);
        assert_eq!(
            shown(&any.answer(Some("https://b.example"))),
            ["Access-Control-Allow-Origin: *", "Access-Control-Expose-Headers: X-Request-Id"]
        );
        assert!(any.answer(None).is_empty());
    }

    #[test]
    fn a_preflight_says_what_may_come() {
        let mut these = cors(Origins::These(vec!["https://a.example".into()]), false);
        let asked = Some("content-type, x-a");
        assert_eq!(
            shown(&these.preflight("https://a.example", "POST", asked, &[])),
            [
                "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
                "Access-Control-Allow-Origin: https://a.example",
                "Access-Control-Allow-Methods: POST",
                "Access-Control-Allow-Headers: content-type, x-a",
                "Access-Control-Max-Age: 600",
            ]
        );
        these.headers = vec!["Content-Type".into()];
        let fields = these.preflight("https://a.example", "POST", Some("a\rb"), &["PUT".into()]);
        assert!(shown(&fields).contains(&"Access-Control-Allow-Headers: Content-Type".to_owned()));
        assert!(shown(&fields).contains(&"Access-Control-Allow-Methods: PUT".to_owned()));
        assert_eq!(these.preflight("https://b.example", "POST", None, &[]).len(), 1);
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for origin in ["https://a.example", "http://localhost:3000", "http://[::1]:1"] {
            assert_eq!(Cors::check_origin(origin), Ok(()), "{origin}");
        }
        for origin in ["a.example", "https://a/", "https://", "https://A", "", "*"] {
            assert!(Cors::check_origin(origin).is_err(), "{origin}");
        }
    }
}
