//! Documents with something wrong in them: each error has the place, the field's path and what was expected.

#![allow(clippy::unwrap_used, reason = "tests, and the helpers of tests, may panic")]

/// One malformed document and the error that it must give: that one and no other, but for `others`.
struct Row {
    what: &'static str,
    document: &'static str,
    /// Line and column, from 1.
    at: (u32, u32),
    field: &'static str,
    says: &'static str,
    /// What other errors say, of the same place.
    others: &'static [&'static str],
}

impl Row {
    const fn and(self, others: &'static [&'static str]) -> Self {
        Self { others, ..self }
    }
}

const fn row(
    what: &'static str,
    at: (u32, u32),
    field: &'static str,
    says: &'static str,
    document: &'static str,
) -> Row {
    Row { what, document, at, field, says, others: &[] }
}

/// A service up to its backends, on lines 1 to 4.
macro_rules! web {
    ($rest:literal) => {
        concat!("services:\n- name: web\n  address: 203.0.113.10\n  port: 80\n", $rest)
    };
}

const ROWS: &[Row] = &[
    // The text.
    row("nothing", (1, 1), "", "to remove every service on purpose write `services: []`", ""),
    row("only comments", (1, 1), "", "is empty", "# services: []\n\n# later\n"),
    row("a null document", (1, 1), "", "is empty", "---\n~\n"),
    row("a byte-order mark", (1, 1), "", "byte-order mark", "\u{feff}services: []\n"),
    row("a NUL", (2, 3), "", "NUL", "services:\n# \0\n"),
    row(
        "a second document",
        (2, 1),
        "",
        "a second document is not allowed",
        "services: []\n---\nservices: []\n",
    ),
    row("a directive", (1, 1), "", "a directive (%NAME) is not allowed", "%YAML 1.2\n---\nservices: []\n"),
    row(
        "an anchor",
        (2, 12),
        "services[0].name",
        "an anchor (&name) is not allowed",
        "services:\n- name: &a web\n",
    ),
    row(
        "an alias",
        (6, 11),
        "services[0].backends[0]",
        "an alias (*name) is not allowed",
        web!("  backends:\n  -       *b\n"),
    ),
    row("a tag", (2, 14), "services[0].port", "a tag (!name) is not allowed", "services:\n- port: !int 80\n"),
    row("an unclosed list", (1, 11), "services", "is not valid YAML", "services: [\n"),
    row("an unclosed quote", (3, 1), "services[0].name", "is not valid YAML", "services:\n- name: \"web\n"),
    row("a tab for indentation", (2, 2), "services", "indent with spaces", "services:\n\t- name: web\n"),
    row(
        "an IPv6 backend without quotes",
        (6, 18),
        "services[0].backends",
        "put an IPv6 backend in quotes",
        web!("  backends:\n  - [2001:db8::1]:80\n"),
    ),
    row(
        "nesting",
        (1, 27),
        "services[0]",
        "is nested deeper than 16 levels",
        "services: [[[[[[[[[[[[[[[[[[[[[[[[",
    ),
    row("a mapping for a key", (1, 1), "", "a list or mapping as a key is not allowed", "{a: 1}: 2\n"),
    row(
        "text behind the first item in quotes",
        (5, 30),
        "services[0].backends[0]",
        "is not valid YAML",
        web!("  backends: [\"192.0.2.11:80\" \"192.0.2.12:80\"]\n"),
    ),
    row(
        "text behind the first item in braces",
        (5, 35),
        "services[0].backends[0]",
        "is not valid YAML",
        web!("  backends: [{address: 192.0.2.11}x, 192.0.2.12:80]\n"),
    ),
    row(
        "text behind the second item",
        (7, 9),
        "services[0].backends[1]",
        "is not valid YAML",
        web!("  backends:\n  - 192.0.2.12:80\n  - \"x\" y\n"),
    ),
    row(
        "a second item that cannot begin so",
        (7, 5),
        "services[0].backends[1]",
        "is not valid YAML",
        web!("  backends:\n  - 192.0.2.12:80\n  - @x\n"),
    ),
    row(
        "a line that is no item of the list",
        (7, 3),
        "services[0].backends",
        "is not valid YAML",
        web!("  backends:\n  - \"192.0.2.11:80\"\n  192.0.2.12:80\n"),
    ),
    row(
        "a list closed as a mapping",
        (5, 13),
        "services[0].backends",
        "mismatched bracket",
        web!("  backends: [192.0.2.11:80}\n"),
    ),
    row(
        "text behind a value",
        (2, 15),
        "services[0].name",
        "is not valid YAML",
        "services:\n- name: \"web\" x\n",
    ),
    // The top.
    row("a list at the top", (1, 1), "", "expected a mapping with `services`, found a list", "- name: web\n"),
    row("text at the top", (1, 1), "", "expected a mapping with `services`, found `web`", "web\n"),
    row(
        "an unknown field at the top",
        (2, 1),
        "service",
        "unknown field `service`: did you mean `services`? expected one of `services`, `removals`",
        "services: []\nservice: []\n",
    ),
    row("no services", (1, 1), "", "missing field `services`", "removals: confirmed\n"),
    row(
        "a removal that is neither",
        (2, 11),
        "removals",
        "expected `guarded` or `confirmed`, found `yes`",
        "services: []\nremovals: yes\n",
    ),
    row(
        "services without a value",
        (1, 9),
        "services",
        "expected a list of services, or `[]` for none on purpose, found nothing",
        "services:\n",
    ),
    row(
        "services as a mapping",
        (2, 3),
        "services",
        "expected a list of services, or `[]` for none on purpose, found a mapping",
        "services:\n  web: {}\n",
    ),
    row(
        "services twice",
        (2, 1),
        "services",
        "field `services` stands here twice, first at line 1",
        "services: []\nservices: []\n",
    ),
    // A service.
    row(
        "a service that is text",
        (2, 3),
        "services[0]",
        "expected a service: a mapping with",
        "services:\n- web\n",
    ),
    row(
        "a misspelt field",
        (3, 3),
        "services[0].adress",
        "unknown field `adress`: did you mean `address`? expected one of `name`, `address`",
        "services:\n- name: web\n  adress: 203.0.113.10\n  address: 203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "a merge key",
        (3, 3),
        "services[0].<<",
        "unknown field `<<`: expected one of",
        "services:\n- name: web\n  <<: {port: 80}\n  address: 203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "a field twice",
        (5, 3),
        "services[0].port",
        "field `port` stands here twice, first at line 4",
        web!("  port: 81\n  backends: []\n"),
    ),
    row(
        "no name",
        (2, 3),
        "services[0]",
        "missing field `name`",
        "services:\n- address: 203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "no address",
        (2, 3),
        "services[0]",
        "missing field `address`",
        "services:\n- name: web\n  port: 80\n  backends: []\n",
    ),
    row(
        "no port",
        (2, 3),
        "services[0]",
        "missing field `port`",
        "services:\n- name: web\n  address: 203.0.113.10\n  backends: []\n",
    ),
    row("no backends", (2, 3), "services[0]", "missing field `backends`", web!("")),
    row(
        "an empty name",
        (2, 9),
        "services[0].name",
        "it is empty",
        "services:\n- name: \"\"\n  address: 203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "a name with a space",
        (2, 9),
        "services[0].name",
        "only letters, digits",
        "services:\n- name: my web\n  address: 203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "a name that is a number",
        (2, 9),
        "services[0].name",
        "expected a name",
        "services:\n- name: 80\n  address: 203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "a name that is a truth value",
        (2, 9),
        "services[0].name",
        "found `true`",
        "services:\n- name: true\n  address: 203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "a name that is a list",
        (2, 9),
        "services[0].name",
        "expected a name, found a list",
        "services:\n- name: [web]\n  address: 203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "an address that is a name",
        (3, 12),
        "services[0].address",
        "expected an IPv4 or IPv6 address without port or prefix",
        "services:\n- name: web\n  address: example.com\n  port: 80\n  backends: []\n",
    ),
    row(
        "an address with a prefix",
        (3, 12),
        "services[0].address",
        "found `203.0.113.10/32`",
        "services:\n- name: web\n  address: 203.0.113.10/32\n  port: 80\n  backends: []\n",
    ),
    row(
        "an address with a port",
        (3, 12),
        "services[0].address",
        "found `203.0.113.10:80`",
        "services:\n- name: web\n  address: 203.0.113.10:80\n  port: 80\n  backends: []\n",
    ),
    row(
        "an address with a leading zero",
        (3, 12),
        "services[0].address",
        "found `203.0.113.010`",
        "services:\n- name: web\n  address: 203.0.113.010\n  port: 80\n  backends: []\n",
    ),
    row(
        "a multicast address",
        (3, 12),
        "services[0].address",
        "it is a multicast address",
        "services:\n- name: web\n  address: 224.0.0.1\n  port: 80\n  backends: []\n",
    ),
    row(
        "an IPv4-mapped address",
        (3, 12),
        "services[0].address",
        "IPv4-mapped",
        "services:\n- name: web\n  address: ::ffff:203.0.113.10\n  port: 80\n  backends: []\n",
    ),
    row(
        "address and addresses",
        (4, 14),
        "services[0].addresses",
        "`address` and `addresses` exclude each other",
        "services:\n- name: web\n  address: 203.0.113.10\n  addresses: [203.0.113.11]\n  port: 80\n  backends: []\n",
    ),
    row(
        "no address in the list",
        (3, 14),
        "services[0].addresses",
        "expected a list of addresses, found an empty list",
        "services:\n- name: web\n  addresses: []\n  port: 80\n  backends: []\n",
    ),
    row(
        "an address twice",
        (3, 29),
        "services[0].addresses[1]",
        "address 203.0.113.10 stands here a second time, first at bad.yaml:3:15",
        "services:\n- name: web\n  addresses: [203.0.113.10, 203.0.113.10]\n  port: 80\n  backends: []\n",
    ),
    row(
        "port 0",
        (4, 9),
        "services[0].port",
        "expected a port: a number from 1 to 65535, found `0`",
        "services:\n- name: web\n  address: 203.0.113.10\n  port: 0\n  backends: []\n",
    ),
    row(
        "a port out of range",
        (4, 9),
        "services[0].port",
        "found `65536`",
        "services:\n- name: web\n  address: 203.0.113.10\n  port: 65536\n  backends: []\n",
    ),
    row(
        "a huge port",
        (4, 9),
        "services[0].port",
        "found `99999999999999999999999999`",
        "services:\n- name: web\n  address: 203.0.113.10\n  port: 99999999999999999999999999\n  backends: []\n",
    ),
    row(
        "a negative port",
        (4, 9),
        "services[0].port",
        "found `-80`",
        "services:\n- name: web\n  address: 203.0.113.10\n  port: -80\n  backends: []\n",
    ),
    row(
        "a port with a leading zero",
        (4, 9),
        "services[0].port",
        "found `080`",
        "services:\n- name: web\n  address: 203.0.113.10\n  port: 080\n  backends: []\n",
    ),
    row(
        "a hexadecimal port",
        (4, 9),
        "services[0].port",
        "found `0x50`",
        "services:\n- name: web\n  address: 203.0.113.10\n  port: 0x50\n  backends: []\n",
    ),
    row(
        "a port in quotes",
        (4, 9),
        "services[0].port",
        "found the quoted text \"80\"",
        "services:\n- name: web\n  address: 203.0.113.10\n  port: \"80\"\n  backends: []\n",
    ),
    row(
        "a port with a fraction",
        (4, 9),
        "services[0].port",
        "found `80.0`",
        "services:\n- name: web\n  address: 203.0.113.10\n  port: 80.0\n  backends: []\n",
    ),
    row(
        "a protocol that is none",
        (5, 13),
        "services[0].protocol",
        "expected `tcp` or `udp`, found `sctp`",
        web!("  protocol: sctp\n  backends: []\n"),
    ),
    row(
        "protocol beside ports",
        (3, 10),
        "services[0].ports",
        "`protocol` and `ports` exclude each other",
        "services:\n- protocol: udp\n  ports: [53]\n  name: web\n  address: 203.0.113.10\n  backends: []\n",
    ),
    row(
        "a port twice",
        (4, 15),
        "services[0].ports[1]",
        "port 53/tcp stands here a second time, first at bad.yaml:4:11",
        "services:\n- name: dns\n  address: 203.0.113.10\n  ports: [53, {port: 53, protocol: tcp}]\n  backends: []\n",
    ),
    row(
        "a port without its number",
        (4, 11),
        "services[0].ports[0]",
        "missing field `port`: a number from 1 to 65535",
        "services:\n- name: dns\n  address: 203.0.113.10\n  ports: [{protocol: udp}]\n  backends: []\n",
    ),
    row(
        "too many frontends",
        (2, 9),
        "services[0]",
        "more than 1048576 frontends",
        "too many: made by the test",
    ),
    // Backends.
    row(
        "backends without a value",
        (5, 11),
        "services[0].backends",
        "expected a list of backends, or `[]` for none on purpose, found nothing",
        web!("  backends:\n"),
    ),
    row(
        "a backend without a port",
        (6, 5),
        "services[0].backends[0]",
        "expected a backend: 192.0.2.11:8080",
        web!("  backends:\n  - 192.0.2.11\n"),
    ),
    row(
        "an IPv6 backend without brackets",
        (6, 5),
        "services[0].backends[0]",
        "\"[2001:db8::1]:8080\"",
        web!("  backends:\n  - 2001:db8::1:8080\n"),
    ),
    row(
        "a backend with port 0",
        (6, 5),
        "services[0].backends[0]",
        "port 0 is not allowed for 192.0.2.11",
        web!("  backends:\n  - 192.0.2.11:0\n"),
    ),
    row(
        "a backend with a port out of range",
        (6, 5),
        "services[0].backends[0]",
        "behind the colon a number from 1 to 65535, found `192.0.2.11:70000`",
        web!("  backends:\n  - 192.0.2.11:70000\n"),
    ),
    row(
        "an IPv6 backend with a port that is a name",
        (6, 5),
        "services[0].backends[0]",
        "behind the colon a number from 1 to 65535, found the quoted text \"[2001:db8::1]:http\"",
        web!("  backends:\n  - \"[2001:db8::1]:http\"\n"),
    ),
    row(
        "a field in capitals",
        (5, 3),
        "services[0].Backends",
        "unknown field `Backends`: did you mean `backends`?",
        web!("  Backends: []\n  backends: []\n"),
    ),
    row(
        "a field that is like no other",
        (5, 3),
        "services[0].pool",
        "unknown field `pool`: expected one of",
        web!("  pool: []\n  backends: []\n"),
    ),
    row(
        "a backend with a scope",
        (6, 5),
        "services[0].backends[0]",
        "expected a backend",
        web!("  backends:\n  - \"[2001:db8::1%3]:80\"\n"),
    ),
    row(
        "a backend as a mapping of its address",
        (6, 5),
        "services[0].backends[0].192.0.2.11",
        "unknown field `192.0.2.11`: expected one of",
        web!("  backends:\n  - 192.0.2.11: 8080\n"),
    )
    .and(&["missing field `address`", "missing field `port`"]),
    row(
        "a loopback backend",
        (6, 5),
        "services[0].backends[0]",
        "it is a loopback address",
        web!("  backends:\n  - 127.0.0.1:8080\n"),
    ),
    row(
        "a backend without an address",
        (6, 5),
        "services[0].backends[0]",
        "missing field `address`",
        web!("  backends:\n  - {port: 8080}\n"),
    ),
    row(
        "a choice misspelt",
        (6, 11),
        "services[0].choice",
        "unknown value `Magelv`: did you mean `maglev`? expected one of `random`, `maglev`",
        web!("  backends: []\n  choice: Magelv\n"),
    ),
    row(
        "a choice that is none",
        (6, 11),
        "services[0].choice",
        "unknown value `rendezvous`: expected one of `random`, `maglev`",
        web!("  backends: []\n  choice: rendezvous\n"),
    ),
    row(
        "a choice without a value",
        (6, 9),
        "services[0].choice",
        "expected `random` or `maglev`, found nothing",
        web!("  backends: []\n  choice:\n"),
    ),
    row(
        "a choice that is a list",
        (6, 11),
        "services[0].choice",
        "expected a choice: `random`, `maglev`, or a mapping such as `maglev: 16381`, found an empty list",
        web!("  backends: []\n  choice: []\n"),
    ),
    row(
        "an unknown field of a choice",
        (6, 24),
        "services[0].choice.size",
        "unknown field `size`: expected one of `maglev`",
        web!("  backends: []\n  choice: {maglev: 13, size: 13}\n"),
    ),
    row(
        "a choice without its field",
        (6, 11),
        "services[0].choice",
        "missing field `maglev`: the number of places, such as 16381",
        web!("  backends: []\n  choice: {}\n"),
    ),
    row(
        "a Maglev table whose size is no prime",
        (6, 20),
        "services[0].choice.maglev",
        "a Maglev table of 16384 places: the size must be a prime number, such as 16411",
        web!("  backends: []\n  choice: {maglev: 16384}\n"),
    ),
    row(
        "a Maglev table of no places",
        (6, 20),
        "services[0].choice.maglev",
        "a Maglev table of 0 places: the size must be a prime number, such as 2",
        web!("  backends: []\n  choice: {maglev: 0}\n"),
    ),
    row(
        "a Maglev table that is too large",
        (6, 20),
        "services[0].choice.maglev",
        "a Maglev table of 65537 places is too large: the most is 65521, a prime number",
        web!("  backends: []\n  choice: {maglev: 65537}\n"),
    ),
    row(
        "a Maglev table of words",
        (6, 20),
        "services[0].choice.maglev",
        "expected a number of places: a prime number up to 65521, found `many`",
        web!("  backends: []\n  choice: {maglev: many}\n"),
    ),
    row(
        "a Maglev table smaller than the backends",
        (6, 11),
        "services[0].choice",
        "service web has 3 backends with a weight, and a Maglev table of 2 places: give it a prime number of places",
        web!("  backends: [192.0.2.1:80, 192.0.2.2:80, 192.0.2.3:80]\n  choice: {maglev: 2}\n"),
    ),
    row(
        "an affinity misspelt",
        (6, 13),
        "services[0].affinity",
        "unknown value `clientip`: did you mean `client-ip`? expected one of `none`, `client-ip`",
        web!("  backends: []\n  affinity: clientip\n"),
    ),
    row(
        "an affinity without a value",
        (6, 11),
        "services[0].affinity",
        "expected `none` or `client-ip`, found nothing",
        web!("  backends: []\n  affinity:\n"),
    ),
    row(
        "an affinity that is a list",
        (6, 13),
        "services[0].affinity",
        "expected an affinity: `none`, `client-ip`, or a mapping such as `client-ip: 10800`, found an empty list",
        web!("  backends: []\n  affinity: []\n"),
    ),
    row(
        "an unknown field of an affinity",
        (6, 29),
        "services[0].affinity.timeout",
        "unknown field `timeout`: expected one of `client-ip`",
        web!("  backends: []\n  affinity: {client-ip: 30, timeout: 30}\n"),
    ),
    row(
        "an affinity without its field",
        (6, 13),
        "services[0].affinity",
        "missing field `client-ip`: the time-out in seconds, such as 10800",
        web!("  backends: []\n  affinity: {}\n"),
    ),
    row(
        "an affinity that is over at once",
        (6, 25),
        "services[0].affinity.client-ip",
        "affinity for 0 s is out of range: give 1 to 604800 s, or no affinity",
        web!("  backends: []\n  affinity: {client-ip: 0}\n"),
    ),
    row(
        "an affinity of more than a week",
        (6, 25),
        "services[0].affinity.client-ip",
        "affinity for 604801 s is out of range: give 1 to 604800 s, or no affinity",
        web!("  backends: []\n  affinity: {client-ip: 604801}\n"),
    ),
    row(
        "an affinity of words",
        (6, 25),
        "services[0].affinity.client-ip",
        "expected a time-out: seconds from 1 to 604800, found `3h`",
        web!("  backends: []\n  affinity: {client-ip: 3h}\n"),
    ),
    row(
        "a weight out of range",
        (6, 47),
        "services[0].backends[0].weight",
        "expected a weight: a number from 0 (no new connections) to 256, found `257`",
        web!("  backends:\n  - {address: 192.0.2.11, port: 8080, weight: 257}\n"),
    ),
    row(
        "a state that is none",
        (6, 46),
        "services[0].backends[0].state",
        "expected `active` or `draining`, found `down`",
        web!("  backends:\n  - {address: 192.0.2.11, port: 8080, state: down}\n"),
    ),
    row(
        "a locality that is none",
        (6, 49),
        "services[0].backends[0].locality",
        "expected `remote` or `local`, found `Local`",
        web!("  backends:\n  - {address: 192.0.2.11, port: 8080, locality: Local}\n"),
    ),
    row(
        "an unknown field of a backend",
        (6, 39),
        "services[0].backends[0].wieght",
        "unknown field `wieght`: did you mean `weight`? expected one of `address`, `port`, `weight`, `state`, `locality`",
        web!("  backends:\n  - {address: 192.0.2.11, port: 8080, wieght: 2}\n"),
    ),
    row(
        "a backend twice",
        (7, 5),
        "services[0].backends[1]",
        "backend 192.0.2.11:80 stands here a second time, first at bad.yaml:6:5: for a larger share give it a weight",
        web!("  backends:\n  - 192.0.2.11:80\n  - {address: 192.0.2.11, port: 80, weight: 2}\n"),
    ),
    row(
        "a backend of the other family",
        (6, 5),
        "services[0].backends[0]",
        "this backend is IPv6, but the service has no IPv6 address",
        web!("  backends:\n  - \"[2001:db8::1]:8080\"\n"),
    ),
    row(
        "an address of a family without backends",
        (3, 29),
        "services[0].addresses[1]",
        "this address is IPv6, but all backends of the service are of the other family",
        "services:\n- name: web\n  addresses: [203.0.113.10, 2001:db8::10]\n  port: 80\n  backends: [192.0.2.11:80]\n",
    ),
    // Between services.
    row(
        "a name twice",
        (6, 9),
        "services[1].name",
        "service `web` stands here a second time, first at bad.yaml:2:9",
        web!("  backends: []\n- name: web\n  address: 203.0.113.11\n  port: 80\n  backends: []\n"),
    ),
    row(
        "a frontend twice",
        (7, 12),
        "services[1].address",
        "frontend 203.0.113.10:80/tcp stands here a second time, first at bad.yaml:3:12",
        web!("  backends: []\n- name: other\n  address: 203.0.113.10\n  port: 80\n  backends: []\n"),
    ),
    row(
        "a name that a dual-stack service takes",
        (6, 9),
        "services[1].name",
        "service `web/ipv6` stands here a second time, first at bad.yaml:2:9",
        "services:\n- name: web\n  addresses: [203.0.113.10, 2001:db8::10]\n  port: 80\n  backends: []\n\
         - name: web/ipv6\n  address: 2001:db8::11\n  port: 80\n  backends: []\n",
    ),
];

#[test]
fn each_error_has_its_place_its_field_and_what_was_expected() {
    let mut failures = String::new();
    for Row { what, document, at, field, says, others } in ROWS {
        let document =
            if document.starts_with("too many") { too_many_frontends() } else { (*document).to_owned() };
        let errors = match control_static::parse(&document, "bad.yaml") {
            Ok(picture) => {
                failures += &format!("{what}: was taken for {picture:?}\n");
                continue;
            }
            Err(errors) => errors,
        };
        let mut expected = std::iter::once((*field, *says))
            .chain(others.iter().map(|says| ("services[0].backends[0]", *says)));
        let found = |(field, says): (&str, &str)| {
            let fits = |error: &&control_static::Error| {
                let position = error.place().position().expect("errors of a text have a position");
                (position.line, position.column) == *at
                    && error.field() == field
                    && error.problem().to_string().contains(says)
            };
            errors.iter().filter(fits).count() == 1
        };
        let found = expected.all(found) && errors.iter().count() == 1 + others.len();
        if !found {
            failures += &format!("{what}: expected {}:{} {field:?} {says:?}, found\n{errors}\n", at.0, at.1);
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(ROWS.len() >= 40);
}

/// 2,000 addresses times 2,000 ports: a short text that asks for four million frontends.
fn too_many_frontends() -> String {
    let addresses: Vec<_> = (0..2000).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    let ports: Vec<_> = (1..=2000).map(|port: u32| port.to_string()).collect();
    format!(
        "services:\n- name: web\n  addresses: [{}]\n  ports: [{}]\n  backends: []\n",
        addresses.join(", "),
        ports.join(", ")
    )
}

#[test]
fn bytes_that_are_no_text_are_refused_where_they_stand() {
    for (bytes, at, says) in [
        (&b"services: []\n# caf\xe9\n"[..], (2, 6), "expected UTF-8 text, found the byte 0xe9"),
        (b"\xff\xfes\0e\0r\0", (1, 1), "found the byte 0xff"),
        (b"services: \x80", (1, 11), "found the byte 0x80"),
    ] {
        let errors = control_static::parse_bytes(bytes, "bad.yaml").unwrap_err();
        let error = errors.iter().next().unwrap();
        let position = error.place().position().unwrap();
        assert_eq!((position.line, position.column), at);
        assert!(error.problem().to_string().contains(says), "{error}");
    }
}

#[test]
fn columns_count_characters() {
    let errors = control_static::parse("services: [{name: \"wéb→x\", port: 0}]", "bad.yaml").unwrap_err();
    let port = errors.iter().find(|error| error.field() == "services[0].port").unwrap();
    assert_eq!(
        port.to_string(),
        "bad.yaml:1:34: services[0].port: expected a port: a number from 1 to 65535, found `0`"
    );
}

#[test]
fn several_errors_come_together_in_the_order_of_lines() {
    let document = "\
services:
- name: web
  address: nowhere
  port: 0
  backends: [192.0.2.1, 192.0.2.2:80, 192.0.2.3:x]
- nmae: dns
  address: 203.0.113.10
  port: 53
  protocol: icmp
";
    let errors = control_static::parse(document, "bad.yaml").unwrap_err();
    let places: Vec<_> = errors
        .iter()
        .map(|error| (error.place().position().unwrap().line, error.field().to_owned()))
        .collect();
    let expected = [
        (3, "services[0].address"),
        (4, "services[0].port"),
        (5, "services[0].backends[0]"),
        (5, "services[0].backends[2]"),
        (6, "services[1]"),
        (6, "services[1]"),
        (6, "services[1].nmae"),
        (9, "services[1].protocol"),
    ];
    let mut expected: Vec<_> = expected.iter().map(|(line, field)| (*line, (*field).to_owned())).collect();
    let mut places = places;
    assert!(places.is_sorted_by_key(|(line, _)| *line), "{errors}");
    places.sort();
    expected.sort();
    assert_eq!(places, expected, "{errors}");
}

#[test]
fn no_more_errors_are_kept_than_anybody_reads() {
    let document = format!("services: [{}]", "x,".repeat(5000));
    let errors = control_static::parse(&document, "bad.yaml").unwrap_err();
    assert_eq!(errors.iter().count(), control_static::Errors::MOST);
    assert_eq!(errors.omitted(), 4900);
    assert!(errors.to_string().ends_with("and 4900 more"), "{errors}");
}
