import java.nio.file.*;
import org.apache.flink.table.api.*;

/** Submits a script to Flink: `SET 'k' = 'v';`, CREATE TABLE statements, and one EXECUTE STATEMENT SET BEGIN ... END;. */
public class StatementSet {
  public static void main(String[] args) throws Exception {
    TableEnvironment table = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
    String script = Files.readString(Path.of(args[0]));
    int set = script.indexOf("EXECUTE STATEMENT SET");
    for (String statement : script.substring(0, set).split(";")) {
      String text = statement.strip();
      if (text.startsWith("SET ")) {
        String[] pair = text.substring(4).split("=", 2);
        table.getConfig().set(unquoted(pair[0]), unquoted(pair[1]));
      } else if (!text.isEmpty()) {
        table.executeSql(text);
      }
    }
    table.executeSql(script.substring(set).strip().replaceAll(";$", ""));
  }

  private static String unquoted(String text) {
    return text.strip().replace("'", "");
  }
}
