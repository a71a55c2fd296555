/** The way of one machine to every member of an etcd: one proxy a member, all in the same mode, as a cable or a switch would be. */
import { type ProxyMode, startProxy, type TcpProxy } from "./proxy.ts";
import { PATIENCE_MS, until } from "./wait.ts";

export interface Uplink {
  /** What the machine has for endpoints. */
  readonly endpoints: readonly string[];
  set(mode: ProxyMode): Promise<void>;
  /** The mode of all changes as soon as a request contains `text`, which is treated by it; resolves when that has happened. */
  when(text: string, mode: ProxyMode): Promise<void>;
  stop(): Promise<void>;
}

/** Starts the proxies in front of these endpoints. */
export async function startUplink(endpoints: readonly string[]): Promise<Uplink> {
  const proxies: readonly TcpProxy[] = await Promise.all(endpoints.map((endpoint) => startProxy(endpoint)));
  const each = async (work: (proxy: TcpProxy) => Promise<void>) => {
    await Promise.all(proxies.map(work));
  };
  return {
    endpoints: proxies.map((proxy) => proxy.url),
    set: (mode) => each((proxy) => proxy.set(mode)),
    async when(text, mode) {
      for (const proxy of proxies) proxy.setWhen(text, mode);
      await until(
        `a request that makes the network ${mode}`,
        () => proxies.some((proxy) => proxy.mode === mode),
        PATIENCE_MS,
      );
      await each((proxy) => proxy.set(mode));
    },
    stop: () => each((proxy) => proxy.stop()),
  };
}
