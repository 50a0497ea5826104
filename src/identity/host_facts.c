/* Owns asking the system who this host is: its id and its hardware addresses (50-identity, Host fingerprint). Decides nothing. */
#include "identity/host.h"

#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__) || defined(__DragonFly__)
#define HAS_LINK_SOCKADDR 1
#include <ifaddrs.h>
#include <net/if_dl.h>
#include <net/if_types.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/sysctl.h>
#endif
#ifdef __APPLE__
#include <CoreFoundation/CoreFoundation.h>
#include <IOKit/IOKitLib.h>
#endif

#include "util/file.h"
#include "util/memory.h"
#include "util/text.h"

enum { MAC_BYTES = 6, INTERFACES_MAXIMUM = 4096 };
enum { BIT_GROUP = 0x01, BIT_LOCAL = 0x02 }; /* of an address's first byte */

/* Never physical, whatever the system says of them (50-identity). */
static const char *const NEVER[] = {
    "lo",   "docker", "br-",     "veth",  "virbr", "tap", "tun",  "tailscale", "wg",
    "utun", "ppp",    "vboxnet", "vmnet", "awdl",  "llw", "anpi", "bridge",    "ap",
};

/* ---- choosing --------------------------------------------------------------------------------------------------------------- */

struct candidate {
    char name[IF_NAMESIZE + 1];
    bool local; /* locally administered: taken when there is no other */
};

static bool name_is_never_physical(const char *name)
{
    for (size_t i = 0; i < ARRAY_LENGTH(NEVER); i++)
        if (string_has_prefix(name, NEVER[i]))
            return true;
    return false;
}

/* The first by name; a locally administered one only while no other was met. */
static bool is_better(const struct candidate *candidate, const struct candidate *best)
{
    if (best->name[0] == '\0')
        return true;
    if (candidate->local != best->local)
        return !candidate->local;
    return strcmp(candidate->name, best->name) < 0;
}

static void add_interface(struct host_facts *facts, struct candidate *best, const char *name, const uint8_t mac[static MAC_BYTES],
                          bool physical)
{
    static const uint8_t NONE[MAC_BYTES] = { 0 };
    char text[HOST_MAC_SIZE];
    if (memcmp(mac, NONE, MAC_BYTES) == 0 || (mac[0] & BIT_GROUP) != 0 || facts->present_count >= INTERFACES_MAXIMUM)
        return;
    (void)snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    facts->present = memory_realloc(facts->present, (facts->present_count + 1) * sizeof(*facts->present));
    memcpy(facts->present[facts->present_count++], text, sizeof(text));
    struct candidate candidate = { .local = (mac[0] & BIT_LOCAL) != 0 };
    if (!physical || name_is_never_physical(name) || string_copy(candidate.name, sizeof(candidate.name), name) != 0)
        return;
    if (is_better(&candidate, best)) {
        *best = candidate;
        memcpy(facts->mac, text, sizeof(text));
    }
}

/* An id is one word; "uninitialized" stands in machine-id before the first boot is over, zeros where the firmware knows none. */
static bool take_id(const char *text, struct host_facts *facts)
{
    size_t length = strcspn(text, " \t\r\n");
    bool alone = text[length + strspn(text + length, " \t\r\n")] == '\0';
    if (length == 0 || length >= sizeof(facts->id) || !alone || strspn(text, "0-") >= length || strncmp(text, "uninitialized", length) == 0)
        return false;
    for (size_t i = 0; i < length; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return false;
    memcpy(facts->id, text, length);
    facts->id[length] = '\0';
    return true;
}

/* ---- Linux, and fake roots everywhere ------------------------------------------------------------------------------------------ */

/* What is wrong with this process or this moment, not with the host. */
static bool is_passing(int number)
{
    return number == EMFILE || number == ENFILE || number == ENOMEM || number == ENOSPC || number == EIO || number == EINTR ||
           number == EAGAIN;
}

/* *ret_text "" when there is nothing to read, or nothing that may be. */
static int read_small(const char *path, char *ret_text, size_t size, struct host_facts *facts, struct error *error)
{
    struct buffer bytes;
    struct error cause = { 0 };
    buffer_init(&bytes, size - 1);
    int status = file_read(path, &bytes, &cause);
    ret_text[0] = '\0';
    if (status == 0 && strlen(bytes.data) == bytes.length)
        memcpy(ret_text, bytes.data, bytes.length + 1);
    buffer_release(&bytes);
    facts->denied = facts->denied || status == -(int)ERROR_DENIED;
    if (status == 0 || !is_passing(cause.sys_errno))
        return 0;
    if (error != NULL)
        *error = cause;
    return status;
}

static int read_id_files(const char *root, struct host_facts *facts, struct error *error)
{
    static const char *const FILES[] = { "/etc/machine-id", "/var/lib/dbus/machine-id" };
    int status = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(FILES) && status == 0 && facts->id[0] == '\0'; i++) {
        char text[256];
        char *path = memory_printf("%s%s", root, FILES[i]);
        status = read_small(path, text, sizeof(text), facts, error);
        if (status == 0)
            (void)take_id(text, facts);
        free(path);
    }
    return status;
}

static bool parse_mac(const char *text, uint8_t ret_mac[static MAC_BYTES])
{
    char digits[2 * MAC_BYTES + 1];
    for (size_t i = 0; i < MAC_BYTES; i++) {
        for (size_t j = 0; j < 2; j++) {
            char digit = text[3 * i + j];
            digits[2 * i + j] = (char)(digit >= 'A' && digit <= 'F' ? digit - 'A' + 'a' : digit);
            if (digit == '\0')
                return false;
        }
        char after = text[3 * i + 2];
        if (i + 1 < MAC_BYTES ? after != ':' : after != '\n' && after != '\0')
            return false;
    }
    digits[2 * MAC_BYTES] = '\0';
    return hex_decode(digits, 2 * MAC_BYTES, ret_mac, MAC_BYTES) == 0;
}

/* One small file of /sys/class/net/<name>. */
static int read_attribute(const char *directory, const char *attribute, char *ret_text, size_t size, struct host_facts *facts,
                          struct error *error)
{
    char *path = path_join(directory, attribute);
    int status = read_small(path, ret_text, size, facts, error);
    free(path);
    return status;
}

/* A device of the machine stands behind it: a link called `device`. Bridges, bonds, tunnels, and what a container has (veth) are without. */
static int look_at_physical(const char *directory, bool *ret_physical, struct host_facts *facts, struct error *error)
{
    enum { ETHERNET = 1 }; /* ARPHRD_ETHER */
    struct stat ignored;
    char type[16], flags[32];
    int64_t number = ETHERNET;
    int status = read_attribute(directory, "type", type, sizeof(type), facts, error);
    if (status == 0)
        status = read_attribute(directory, "flags", flags, sizeof(flags), facts, error);
    if (status != 0)
        return status;
    char *device = path_join(directory, "device");
    bool has_device = lstat(device, &ignored) == 0;
    free(device);
    type[strcspn(type, "\n")] = '\0';
    if (type[0] != '\0' && parse_int64(type, &number) != 0)
        number = 0;
    unsigned bits = 0;
    if (sscanf(flags, "%x", &bits) != 1) /* 0x1003 */
        bits = 0;
    *ret_physical = has_device && number == ETHERNET && (bits & (IFF_LOOPBACK | IFF_POINTOPOINT)) == 0;
    return 0;
}

static int read_interface(const char *directory, const char *name, struct host_facts *facts, struct candidate *best, struct error *error)
{
    char address[64];
    uint8_t mac[MAC_BYTES];
    bool physical = false;
    int status = read_attribute(directory, "address", address, sizeof(address), facts, error);
    if (status != 0 || !parse_mac(address, mac))
        return status;
    status = look_at_physical(directory, &physical, facts, error);
    if (status == 0)
        add_interface(facts, best, name, mac, physical);
    return status;
}

static int read_interface_files(const char *root, struct host_facts *facts, struct error *error)
{
    struct candidate best = { .name = "" };
    char *all = memory_printf("%s/sys/class/net", root);
    int status = 0;
    DIR *entries = opendir(all);
    if (entries == NULL && is_passing(errno))
        status = error_set_errno(error, "cannot list %s", all);
    else if (entries == NULL && errno != ENOENT && errno != ENOTDIR)
        facts->denied = true;
    while (entries != NULL && status == 0) {
        errno = 0;
        const struct dirent *entry = readdir(entries);
        if (entry == NULL) {
            status = errno != 0 && is_passing(errno) ? error_set_errno(error, "cannot list %s", all) : 0;
            break;
        }
        if (entry->d_name[0] == '.')
            continue;
        char *directory = path_join(all, entry->d_name);
        status = read_interface(directory, entry->d_name, facts, &best, error);
        free(directory);
    }
    if (entries != NULL)
        closedir(entries);
    free(all);
    return status;
}

/* ---- BSD and macOS ---------------------------------------------------------------------------------------------------------------- */

#ifdef HAS_LINK_SOCKADDR
static int read_link_addresses(struct host_facts *facts, struct error *error)
{
    struct candidate best = { .name = "" };
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0)
        return is_passing(errno) ? error_set_errno(error, "cannot list the network interfaces") : 0;
    for (const struct ifaddrs *entry = all; entry != NULL; entry = entry->ifa_next) {
        if (entry->ifa_addr == NULL || entry->ifa_addr->sa_family != AF_LINK)
            continue;
        const struct sockaddr_dl *link = (const struct sockaddr_dl *)(const void *)entry->ifa_addr;
        uint8_t mac[MAC_BYTES];
        if (link->sdl_alen != MAC_BYTES)
            continue;
        memcpy(mac, LLADDR(link), MAC_BYTES);
        bool physical = link->sdl_type == IFT_ETHER && (entry->ifa_flags & (IFF_LOOPBACK | IFF_POINTOPOINT)) == 0;
        add_interface(facts, &best, entry->ifa_name, mac, physical);
    }
    freeifaddrs(all);
    return 0;
}
#endif

#ifdef __APPLE__
static int read_system_id(struct host_facts *facts, struct error *error)
{
    (void)error;
    char text[sizeof(facts->id)] = "";
    io_service_t service = IOServiceGetMatchingService(MACH_PORT_NULL, IOServiceMatching("IOPlatformExpertDevice"));
    if (service == IO_OBJECT_NULL)
        return 0;
    CFTypeRef value = IORegistryEntryCreateCFProperty(service, CFSTR(kIOPlatformUUIDKey), kCFAllocatorDefault, 0);
    if (value != NULL && CFGetTypeID(value) == CFStringGetTypeID() &&
        CFStringGetCString((CFStringRef)value, text, sizeof(text), kCFStringEncodingASCII))
        (void)take_id(text, facts);
    if (value != NULL)
        CFRelease(value);
    IOObjectRelease(service);
    return 0;
}
#elif defined(HAS_LINK_SOCKADDR)
static int read_system_id(struct host_facts *facts, struct error *error)
{
    char text[sizeof(facts->id)] = "";
    size_t size = sizeof(text) - 1;
#ifdef KERN_HOSTUUID
    const int name[] = { CTL_KERN, KERN_HOSTUUID };
    int result = sysctl(name, ARRAY_LENGTH(name), text, &size, NULL, 0);
#elif defined(__OpenBSD__)
    const int name[] = { CTL_HW, HW_UUID };
    int result = sysctl(name, ARRAY_LENGTH(name), text, &size, NULL, 0);
#else
    int result = sysctlbyname("kern.hostuuid", text, &size, NULL, 0);
#endif
    if (result != 0)
        return is_passing(errno) ? error_set_errno(error, "cannot read kern.hostuuid") : 0;
    (void)take_id(text, facts);
    return 0;
}
#endif

/* ---- both ---------------------------------------------------------------------------------------------------------------------------- */

static int read_host(const char *root, struct host_facts *facts, struct error *error)
{
#ifdef HAS_LINK_SOCKADDR
    if (root[0] == '\0') {
        int result = read_system_id(facts, error);
        return result != 0 ? result : read_link_addresses(facts, error);
    }
#endif
    int status = read_id_files(root, facts, error);
    return status != 0 ? status : read_interface_files(root, facts, error);
}

int host_facts_read(const char *root, struct host_facts *ret_facts, struct error *error)
{
    struct host_facts facts = { .id = "" };
    const char *variable = getenv("CLAUDEMESH_HOST_ROOT");
    int status = read_host(root != NULL ? root : variable != NULL ? variable : "", &facts, error);
    if (status != 0) {
        host_facts_release(&facts);
        return status;
    }
    *ret_facts = facts;
    return 0;
}

void host_facts_release(struct host_facts *facts)
{
    if (facts == NULL)
        return;
    free(facts->present);
    facts->present = NULL;
    facts->present_count = 0;
}
