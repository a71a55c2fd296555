/** The store's part of a configuration: which store, how to reach it, who we are there. */
import * as z from "zod/mini";
import { absolutePath, text } from "../kernel/config.ts";

/** The keys that say which store a node uses. */
export const storeShape = {
  etcd_endpoints: z._default(z.array(text()), []),
  etcd_namespace: z._default(z.string(), ""),
  state_dir: z._default(absolutePath(), "/var/lib/rota"),
};
