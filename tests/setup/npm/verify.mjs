// Reads [{secret, headers, body (base64)}] from standard input, says for each whether `standardwebhooks` accepts it.
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";

const judge = ({ secret, headers, body }) => {
    try {
        new Webhook(secret).verify(Buffer.from(body, "base64").toString("utf8"), headers, { jsonParse: false });
        return "accepted";
    } catch (error) {
        return `refused: ${error.message}`;
    }
};
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(judge)));
